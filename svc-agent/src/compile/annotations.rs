//! What a Service asks for by annotation (docs/annotations.md).

use super::Refused;
use crate::cluster::Service;
use crate::desired::Algorithm;

pub const ALGORITHM: &str = "svcplane.io/algorithm";

/// How backends are picked, inside and outside (B12); None: as usual.
pub(super) fn algorithm(service: &Service, refused: &mut Refused) -> Option<Algorithm> {
    let text = service.annotations.get(ALGORITHM)?;
    match text.trim() {
        "random" => Some(Algorithm::Random),
        "round-robin" => Some(Algorithm::RoundRobin),
        "maglev" => Some(Algorithm::Maglev),
        "least-connections" => Some(Algorithm::LeastConnections),
        _ => {
            refused.because(format!(
                "annotation {ALGORITHM} {text:?} is none of random, round-robin, maglev, least-connections; the default is used"
            ));
            None
        }
    }
}
