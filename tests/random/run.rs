//! Plays random scenarios until enough packets were judged, after those that failed once.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use super::agree::{Side, Tally, play};
use super::draw;
use super::scenario::Scenario;

/// Packets of one run, unless `CASES` says otherwise.
const CASES: u64 = 100_000;
/// Scenarios of one seed.
const BATCH: u32 = 50;

fn regressions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")
}

/// Holds the sides against the model in random scenarios.
///
/// # Panics
/// When they disagree: with the seed, and the smallest scenario that shows it.
pub fn random(sides: &mut [&mut dyn Side]) -> Tally {
    let start = Instant::now();
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = number("SEED").unwrap_or_else(|| now.map_or(1, |now| now.as_secs()));
    let cases = number("CASES").unwrap_or(CASES);
    println!("SEED={seed}");
    let names: Vec<&str> = sides.iter().map(|side| side.name()).collect();
    let names = names.join(" and ");
    let state = RefCell::new((sides, Tally::default()));
    let scenarios = draw::scenario();
    // A runner is good for one batch. Each has the next seed, so that the one which fails can be had by itself.
    for seed in seed.. {
        if state.borrow().1.packets >= cases {
            break;
        }
        let mut runner = TestRunner::new(Config {
            cases: BATCH,
            rng_seed: RngSeed::Fixed(seed),
            failure_persistence: None,
            max_shrink_iters: 4_000,
            ..Config::default()
        });
        let outcome = runner.run(&scenarios, |scenario| {
            let (sides, tally) = &mut *state.borrow_mut();
            play(&scenario, sides, tally).map_err(TestCaseError::fail)
        });
        match outcome {
            Ok(()) => (),
            Err(TestError::Fail(why, scenario)) => fail(seed, &why.to_string(), &scenario),
            Err(TestError::Abort(why)) => panic!("SEED={seed}: {why}"),
        }
    }
    let tally = state.into_inner().1;
    println!(
        "{} packets on {names} in {:.1} s: {tally:?}",
        tally.packets,
        start.elapsed().as_secs_f64()
    );
    tally
}

fn fail(seed: u64, why: &str, scenario: &Scenario) -> ! {
    let file = regressions().join(format!("seed-{seed}.json"));
    let text = serde_json::to_string_pretty(scenario).expect("plain data");
    let kept = match fs::write(&file, text + "\n") {
        Ok(()) => format!("kept as {}", file.display()),
        Err(error) => format!("cannot be kept as {}: {error}", file.display()),
    };
    panic!("SEED={seed} shows it again\n{why}\nThe smallest scenario is {kept}");
}

/// Plays what failed once.
///
/// # Panics
/// When it fails again.
pub fn known(sides: &mut [&mut dyn Side]) -> Tally {
    let mut tally = Tally::default();
    let folder = fs::read_dir(regressions()).expect("there is the folder");
    let mut files: Vec<PathBuf> = folder.map(|e| e.expect("readable").path()).collect();
    files.sort();
    for file in files
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "json"))
    {
        let text = fs::read_to_string(file).expect("readable");
        let scenario: Scenario = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        play(&scenario, sides, &mut tally)
            .unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    }
    tally
}
