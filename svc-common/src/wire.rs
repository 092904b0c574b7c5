//! Header layouts.
pub trait IpHeader {}
impl IpHeader for crate::family::V4 {}
impl IpHeader for crate::family::V6 {}
