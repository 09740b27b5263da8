//! Which user is at the other end of a loopback connection, as the kernel's socket tables say.
//!
//! TCP has no peer credentials; but on loopback the other end is a socket of this machine, and the tables name its owner.
//! Absence from the tables is a refusal.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A program of the user we run as.
    OwnUser,
    /// Somebody else's.
    OtherUser,
    /// Nobody any more, or nobody that the tables know.
    Unknown,
}

/// Whose socket `peer` is.
pub async fn of(peer: SocketAddr, local: SocketAddr) -> Peer {
    let own = rustix::process::geteuid().as_raw();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        if let Ok(rows) = tokio::fs::read_to_string(table).await
            && let Some(owner) = owner(&rows, peer, local)
        {
            return if owner == own { Peer::OwnUser } else { Peer::OtherUser };
        }
    }
    Peer::Unknown
}

/// The owner of the established socket whose local end is `peer` and whose remote end is `local`.
fn owner(table: &str, peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|row| {
        let fields: Vec<&str> = row.split_ascii_whitespace().collect();
        // sl local_address rem_address st tx:rx tr:tm retrnsmt uid
        let [_, from, to, state, _, _, _, uid, ..] = fields.as_slice() else { return None };
        let established = *state == "01";
        (established && address(from)? == peer && address(to)? == local).then(|| uid.parse().ok())?
    })
}

/// `0100007F:1F90` or its IPv6 form: words in the machine's byte order, as the kernel prints them.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = ip
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok())
        .collect::<Option<Vec<_>>>()?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let ip = match bytes.as_slice() {
        [a, b, c, d] => IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)),
        long => {
            let sixteen: [u8; 16] = long.try_into().ok()?;
            // A socket of both families shows 127.0.0.1 as ::ffff:127.0.0.1.
            IpAddr::V6(sixteen.into()).to_canonical()
        }
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0\n\
   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 2 1 0 20 4 30 10 -1\n\
   2: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1\n\
   3: 0000000000000000FFFF00000100007F:C351 0000000000000000FFFF00000100007F:1F90 01 0:0 00:0 0  1002        0 4 1 0\n\
   4: 0100007F:C352 0100007F:1F90 06 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 20 4 30 10 -1\n";

    fn check(peer: u16, expected: Option<u32>) {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        assert_eq!(owner(TABLE, at(peer), at(8080)), expected, "{peer}");
    }

    #[test]
    fn the_owner_is_the_one_of_the_other_end_and_no_other() {
        check(50000, Some(1001));
        check(50001, Some(1002));
        check(50002, None);
        check(50003, None);
    }
}
