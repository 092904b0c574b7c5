//! Helpers of the test layers.

pub mod frames;
pub mod model;
pub mod random;
