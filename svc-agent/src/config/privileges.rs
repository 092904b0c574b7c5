//! What the agent keeps of its rights.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Privileges {
    /// What following devices and Services asks for. The rest goes once the programs are attached: other capabilities,
    /// new privileges by executed programs, system calls that an agent has no use for.
    Drop,
    /// All that it was started with.
    Keep,
}
