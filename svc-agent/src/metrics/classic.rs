//! OpenMetrics → the classic text format, which promtool and older scrapers read: counters there are named with their
//! `_total`, and there is no end mark.

/// Both formats write a family's `HELP` just before its `TYPE`.
pub(super) fn from_openmetrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, what] => help = Some((name, what)),
            ["#", "TYPE", name, kind] => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some((_, what)) = help.take_if(|(of, _)| *of == name) {
                    out += &format!("# HELP {name}{suffix} {what}\n");
                }
                out += &format!("# TYPE {name}{suffix} {kind}\n");
            }
            ["#", ..] => (),
            _ => {
                out += line;
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::from_openmetrics;

    #[test]
    fn counters_are_named_as_their_samples_and_the_end_mark_is_left_out() {
        let open = "# HELP a Things.\n# TYPE a counter\na_total{b=\"# c\"} 1\n# HELP g A gauge.\n# TYPE g gauge\ng 2\n# EOF\n";
        let classic = "# HELP a_total Things.\n# TYPE a_total counter\na_total{b=\"# c\"} 1\n# HELP g A gauge.\n# TYPE g gauge\ng 2\n";
        assert_eq!(from_openmetrics(open), classic);
    }
}
