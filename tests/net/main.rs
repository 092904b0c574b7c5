//! Network namespaces, real agents, real sockets: every path in every setting.

mod capture;
mod checks;
mod choice;
mod churn;
mod dsr;
mod ends;
mod errors;
mod explain;
mod facts;
mod follow;
mod foreign;
mod gone;
mod hostile;
mod inspect;
mod least;
mod life;
mod odd;
mod past;
mod paths;
mod trouble;
mod watch;
mod wire;
mod wishes;

#[path = "../frames.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "written for the other layers as well"
)]
mod frames;

use std::sync::{Arc, Mutex};

use lab::{Lab, Setting};
use libtest_mimic::{Arguments, Failed, Trial};
use paths::Way;
use svc_tests::lab;
use xtask::topology::Cni;

const SETTINGS: [Setting; 9] = [
    Setting {
        name: "socket_tcp",
        socket_lb: "tcp",
        xdp: "off",
        cni: Cni::Ptp,
        dsr: "off",
        host_routing: "auto",
    },
    Setting {
        name: "socket_all",
        socket_lb: "all",
        xdp: "off",
        cni: Cni::Ptp,
        dsr: "off",
        host_routing: "kernel",
    },
    Setting {
        name: "socket_host_only",
        socket_lb: "host-only",
        xdp: "off",
        cni: Cni::Ptp,
        dsr: "off",
        host_routing: "auto",
    },
    Setting {
        name: "packets_only",
        socket_lb: "off",
        xdp: "off",
        cni: Cni::Ptp,
        dsr: "off",
        host_routing: "auto",
    },
    Setting {
        name: "packets_only_bridge",
        socket_lb: "off",
        xdp: "off",
        cni: Cni::Bridge,
        dsr: "off",
        host_routing: "auto",
    },
    Setting {
        name: "xdp_native",
        socket_lb: "off",
        xdp: "native",
        cni: Cni::Ptp,
        dsr: "off",
        host_routing: "kernel",
    },
    Setting {
        name: "xdp_generic",
        socket_lb: "tcp",
        xdp: "generic",
        cni: Cni::Ptp,
        dsr: "off",
        host_routing: "auto",
    },
    Setting {
        name: "dsr_ipip",
        socket_lb: "tcp",
        xdp: "off",
        cni: Cni::Ptp,
        dsr: "ipip",
        host_routing: "auto",
    },
    Setting {
        name: "dsr_geneve",
        socket_lb: "off",
        xdp: "native",
        cni: Cni::Ptp,
        dsr: "geneve",
        host_routing: "kernel",
    },
];

/// A test that concerns some settings. It leaves the lab as it was; one that cannot is the last of its setting.
pub struct Case {
    pub name: &'static str,
    pub settings: &'static [&'static str],
    pub test: fn(&mut Lab) -> anyhow::Result<()>,
}

/// The lab of the setting whose tests are running; the next setting's first test replaces it.
type Shared = Arc<Mutex<(Option<Setting>, Result<Lab, String>)>>;

fn with_lab(
    shared: &Shared,
    setting: Setting,
    test: impl FnOnce(&mut Lab) -> anyhow::Result<()>,
) -> Result<(), Failed> {
    let mut lab = shared
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if lab.0 != Some(setting) {
        *lab = (Some(setting), Err("the lab was not made".into()));
        lab.1 = Lab::new(setting).map_err(|e| format!("{e:#}"));
    }
    let running = lab.1.as_mut().map_err(|why| why.clone())?;
    let outcome = test(running).map_err(|e| format!("{e:#}\n{}", running.logs()));
    if outcome.is_err() {
        // Whatever it has left shall not fail the next one.
        *lab = (None, Err("the last test failed".into()));
    }
    Ok(outcome?)
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Trials of one setting share its lab, one after the other.
    arguments.test_threads = Some(1);
    let shared: Shared = Arc::new(Mutex::new((None, Err(String::new()))));
    let mut trials = Vec::new();
    for setting in SETTINGS {
        for (name, test) in paths::TESTS {
            for way in Way::ALL {
                let shared = shared.clone();
                let name = format!("{}::{name}::{}", setting.name, way.name());
                trials.push(Trial::test(name, move || {
                    with_lab(&shared, setting, |lab| test(lab, way))
                }));
            }
        }
        let cases = [
            choice::CASES,
            wire::CASES,
            errors::CASES,
            churn::CASES,
            ends::CASES,
            inspect::CASES,
            explain::CASES,
            follow::CASES,
            checks::CASES,
            facts::CASES,
            least::CASES,
            life::CASES,
            wishes::CASES,
            gone::CASES,
            odd::CASES,
            past::CASES,
            dsr::CASES,
            watch::CASES,
            hostile::CASES,
            trouble::CASES,
            foreign::CASES,
        ];
        for case in cases
            .into_iter()
            .flatten()
            .filter(|case| case.settings.contains(&setting.name))
        {
            let shared = shared.clone();
            let name = format!("{}::{}", setting.name, case.name);
            trials.push(Trial::test(name, move || {
                with_lab(&shared, setting, case.test)
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The lab removes its namespaces; `exit` would not drop it.
    *shared
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = (None, Err(String::new()));
    conclusion.exit();
}
