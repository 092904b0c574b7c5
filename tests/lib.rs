//! Helpers of the test layers.
