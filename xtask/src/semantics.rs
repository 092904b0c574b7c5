//! Holds the tests that docs/semantics.md names against the tree, so that the list cannot rot.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = include_str!("../../docs/semantics.md");

/// Where the tests of a layer lie.
fn folders(layer: &str) -> &'static [&'static str] {
    match layer {
        "host" => &["svc-common", "svc-agent", "xtask/src"],
        "golden" => &["tests/cases"],
        "kernel" => &["tests/kernel"],
        "net" => &["tests/net"],
        "api" => &["tests/api"],
        "real" => &["tests/real"],
        "agree" => &["tests/agree"],
        _ => &[],
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .to_owned()
}

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            *text += &fs::read_to_string(&path).unwrap();
        }
    }
}

/// What stands in backquotes and looks like `layer::test`.
fn named() -> BTreeSet<(&'static str, &'static str)> {
    DOCUMENT
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once("::"))
        .filter(|(_, test)| !test.contains("::") && !test.is_empty())
        .filter(|(layer, _)| *layer != "LAYER")
        .collect()
}

#[test]
fn every_test_that_the_semantics_name_is_there() {
    let named = named();
    assert!(named.len() > 80, "only {} tests are named", named.len());
    let mut missing = Vec::new();
    let layers: BTreeSet<_> = named.iter().map(|(layer, _)| *layer).collect();
    for layer in layers {
        let mut text = String::new();
        for folder in folders(layer) {
            sources(&root().join(folder), &mut text);
        }
        for (_, test) in named.iter().filter(|(of, _)| *of == layer) {
            let folder = root().join("tests/cases").join(test.replace('_', "-"));
            let there = text.contains(&format!("fn {test}("))
                || text.contains(&format!("fn {test}<"))
                || text.contains(&format!("\"{test}\""))
                || layer == "golden" && folder.is_dir();
            if !there {
                missing.push(format!("{layer}::{test}"));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "docs/semantics.md names tests that are not there: {missing:?}"
    );
}

#[test]
fn every_row_has_its_line() {
    for (letter, rows) in [('A', 13), ('B', 16), ('C', 18), ('D', 16)] {
        for row in 1..=rows {
            let line = format!("\n| {letter}{row} |");
            assert_eq!(DOCUMENT.matches(&line).count(), 1, "row {letter}{row}");
        }
    }
}
