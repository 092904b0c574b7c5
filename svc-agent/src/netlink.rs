//! Netlink for what rtnetlink does not speak: connection tracking, nftables and socket diagnostics.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

// include/uapi/linux/netlink.h
const HEADER: usize = 16;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE_ONLY: u16 = 0x600;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Without the bits for nesting and byte order.
const ATTRIBUTE_TYPE: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Everything: the bodies of all messages.
    Dump,
    /// One action: nothing, or why not.
    Action,
    /// Making what must not be there yet: nothing, or why not.
    Create,
}

/// Asks the kernel, in the network namespace of this thread.
pub fn ask(
    protocol: SockProtocol,
    message_type: u16,
    what: What,
    body: &[u8],
) -> io::Result<Vec<Vec<u8>>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        protocol,
    )?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(2))?;
    let flags = match what {
        What::Dump => REQUEST | DUMP,
        What::Action => REQUEST | ACK,
        What::Create => REQUEST | ACK | CREATE_ONLY,
    };
    let len = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(len.to_ne_bytes());
    message.extend(message_type.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port: there is but one question per socket.
    message.extend([0; 8]);
    message.extend(body);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut bodies = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if read(buffer.get(..len).unwrap_or_default(), &mut bodies)? {
            return Ok(bodies);
        }
    }
}

/// Collects the bodies of the messages in one datagram. True: that was the last one.
fn read(mut datagram: &[u8], bodies: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    while let (Some(len), Some(kind)) = (u32_at(datagram, 0), u16_at(datagram, 4)) {
        let len = len as usize;
        let Some(body) = datagram.get(HEADER..len) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match (kind, u32_at(body, 0)) {
            (ERROR, Some(0)) | (DONE, _) => return Ok(true),
            (ERROR, Some(code)) => {
                return Err(io::Error::from_raw_os_error(
                    code.cast_signed().wrapping_neg(),
                ));
            }
            _ => bodies.push(body.to_vec()),
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// An attribute as it is sent.
pub fn put(kind: u16, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + content.len()).expect("what is sent is short");
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// One that holds others.
pub fn nest(kind: u16, contents: &[Vec<u8>]) -> Vec<u8> {
    put(kind | NESTED, &contents.concat())
}

/// The attributes in a stretch of bytes: types and contents.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)?);
        let content = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & ATTRIBUTE_TYPE, content))
    })
}

/// The content of one attribute among others.
pub fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(kind, content)| (kind == wanted).then_some(content))
}

/// The content of one that is a text: to its first NUL, if any.
pub fn text(bytes: &[u8], wanted: u16) -> Option<String> {
    let value = attribute(bytes, wanted)?;
    let text = value.split(|b| *b == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(text).into_owned())
}

pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = (HEADER + body.len()) as u32;
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn bodies_are_collected_until_the_end_is_said() {
        let mut bodies = Vec::new();
        let two = [message(0xa00, &[1; 4]), message(0xa00, &[2; 8])].concat();
        assert!(!read(&two, &mut bodies).unwrap());
        assert_eq!(bodies, [vec![1; 4], vec![2; 8]]);
        assert!(read(&message(DONE, &[0; 4]), &mut bodies).unwrap());
        assert!(read(&message(ERROR, &[0; 20]), &mut bodies).unwrap());
    }

    #[test]
    fn a_datagram_that_is_cut_off_is_an_error_and_never_a_panic() {
        let whole = [message(0xa00, &[1; 4]), message(0xa00, &[2; 8])].concat();
        for len in 0..whole.len() {
            let _ = read(&whole[..len], &mut Vec::new());
        }
        assert!(read(&whole[..18], &mut Vec::new()).is_err());
        let refused = message(ERROR, &(-1_i32).to_ne_bytes());
        let error = read(&refused, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
