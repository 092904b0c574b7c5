//! What the wrapper and the bench agree on.

/// Programs to jump to.
pub const SLOTS: u32 = 16;
/// What a wrapper returns that could not do its work: no action is this.
pub const FAILED: u32 = 0x7fff_fff0;
/// So many bits of a flow's number are in its port; the others in its address.
pub const PORT_BITS: u32 = 10;
pub const PORT_MASK: u32 = (1 << PORT_BITS) - 1;

/// Which packets to make.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The frame's headers: Ethernet, IPv6, TCP at most. Longer frames keep the rest.
    pub frame: [u64; 10],
    /// How long the frame is to be.
    pub len: u32,
    /// Packets so far. The flow of a packet is `(counter * stride) & mask`: an odd stride meets every flow in turn, in an
    /// order that no prefetcher foresees.
    pub counter: u32,
    pub stride: u32,
    pub mask: u32,
    /// Where in the frame a flow's port, and the last 32 bits of its address are; what flow 0 has there.
    pub port_at: u32,
    pub addr_at: u32,
    pub port: u32,
    pub addr: u32,
    /// Flow `n` is with the address `vip + (n & vip_mask)`, unless the mask is 0.
    pub vip_at: u32,
    pub vip: u32,
    pub vip_mask: u32,
    /// Where to jump to.
    pub slot: u32,
}
