//! Notifications of changes to nftables' rules, iptables-nft's among them.

use std::io;

use futures::FutureExt;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

/// `NFNLGRP_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h) as a bit.
const NFTABLES: u32 = 1 << (7 - 1);

pub struct Watch(TokioSocket);

impl Watch {
    /// Of this network namespace; inside a tokio runtime.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, NFTABLES))?;
        Ok(Self(socket))
    }

    /// Waits until rules have changed; what has been notified so far is forgotten. May be dropped and called again.
    pub async fn changed(&self) -> io::Result<()> {
        match self.0.recv_from_full().await {
            // Too much at once: something was lost, and something has changed.
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return Err(error),
            _ => (),
        }
        while let Some(Ok(_)) = self.0.recv_from_full().now_or_never() {}
        Ok(())
    }
}
