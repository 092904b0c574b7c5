//! xtask as a library: the topology that the demo and the tests share.
