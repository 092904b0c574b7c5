//! Helpers of the test layers.

pub mod apiserver;
pub mod frames;
pub mod lab;
pub mod model;
pub mod random;
