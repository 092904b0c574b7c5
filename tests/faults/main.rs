//! Faults injected into the real thing while traffic goes on; what is lost is counted, and nothing may be.
//!
//! The long form of a test is an ignored one: `cargo xtask test --layer faults --long`.

mod agent;
mod api;
mod changes;
mod load;
mod oom;
mod proxy;
mod upgrade;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

/// How much a test does: what CI has time for, or all of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Short,
    Long,
}

impl Form {
    pub fn pick<T>(self, short: T, long: T) -> T {
        match self {
            Self::Short => short,
            Self::Long => long,
        }
    }
}

pub struct Case {
    pub name: &'static str,
    pub forms: &'static [Form],
    pub test: fn(Form) -> Result<()>,
}

const BOTH: &[Form] = &[Form::Short, Form::Long];
const SHORT: &[Form] = &[Form::Short];

fn main() {
    let mut arguments = Arguments::from_args();
    // Each has the machine to itself.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    for (module, cases) in [
        ("agent", agent::CASES),
        ("upgrade", upgrade::CASES),
        ("api", api::CASES),
    ] {
        for Case { name, forms, test } in cases {
            for form in *forms {
                let name = format!("{module}::{name}{}", form.pick("", "::long"));
                let run = move || test(*form).map_err(|error| Failed::from(format!("{error:#}")));
                trials.push(Trial::test(name, run).with_ignored_flag(*form == Form::Long));
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    changes::remove_lab();
    conclusion.exit();
}
