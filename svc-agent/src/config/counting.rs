//! What is counted by Service, and how much of it is told.

use clap::{Args, ValueEnum};
use svc_common::table::counted;

#[derive(Clone, Copy, Debug, Args)]
pub struct Counting {
    /// What is counted by Service, for /metrics, `top` and `describe`. What is not counted costs packets nothing.
    #[arg(long, value_enum, default_value_t = ServiceMetrics::Connections)]
    pub service_metrics: ServiceMetrics,
    /// How many Service ports have series of their own in /metrics; those that come later share one, by name `other`.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub service_metrics_limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ServiceMetrics {
    /// Nothing.
    Off,
    /// New connections, by packets and by sockets.
    Connections,
    /// Also packets and bytes, both ways; not those of sockets that are connected to their backend directly. Takes 2 MiB a
    /// CPU, and some time of each packet.
    Traffic,
}

impl Counting {
    /// As the programs are told: bits of [`counted`].
    pub const fn bits(&self) -> u32 {
        match self.service_metrics {
            ServiceMetrics::Off => 0,
            ServiceMetrics::Connections => counted::CONNECTIONS,
            ServiceMetrics::Traffic => counted::CONNECTIONS | counted::TRAFFIC,
        }
    }

    pub const fn counts(&self, what: u32) -> bool {
        self.bits() & what != 0
    }
}
