//! Kubernetes' addresses and ranges of addresses.

use std::net::IpAddr;

use super::strings::one;
use super::{GLOBAL, MEMBER, Outcome, Row};
use crate::cost::Cost;
use crate::eval::{Error, failed};
use crate::value::Value;

const ONE: Cost = Cost::Fixed(1);
const TEST: &str = "net.IP: bool";

pub(crate) const ROWS: &[Row] = &[
    ("ip", GLOBAL, "string: net.IP", Cost::Text(1.0), |args| {
        let Some(text) = args[0].as_str() else { return Err(Error::NoOverload) };
        parse(text)
            .map(Value::Ip)
            .or_else(|why| failed(format!("IP Address {text:?} parse error during conversion from string: {why}")))
    }),
    ("isIP", GLOBAL, "string: bool", Cost::Text(1.0), |args| one(args, |text| parse(text).is_ok().into())),
    ("ip.isCanonical", GLOBAL, "string: bool", Cost::Text(2.0), |args| {
        let Some(text) = args[0].as_str() else { return Err(Error::NoOverload) };
        match parse(text) {
            Ok(ip) => Ok(Value::Bool(ip.to_string() == text)),
            Err(why) => failed(format!("IP Address {text:?} parse error during conversion from string: {why}")),
        }
    }),
    ("family", MEMBER, "net.IP: int", ONE, |args| of(args, |ip| Value::Int(if ip.is_ipv4() { 4 } else { 6 }))),
    ("isUnspecified", MEMBER, TEST, ONE, |args| of(args, |ip| ip.is_unspecified().into())),
    ("isLoopback", MEMBER, TEST, ONE, |args| of(args, |ip| ip.is_loopback().into())),
    ("isLinkLocalMulticast", MEMBER, TEST, ONE, |args| {
        of(args, |ip| match ip {
            IpAddr::V4(ip) => (ip.octets()[..3] == [224, 0, 0]).into(),
            IpAddr::V6(ip) => (ip.segments()[0] & 0xff0f == 0xff02).into(),
        })
    }),
    ("isLinkLocalUnicast", MEMBER, TEST, ONE, |args| {
        of(args, |ip| match ip {
            IpAddr::V4(ip) => ip.is_link_local().into(),
            IpAddr::V6(ip) => ip.is_unicast_link_local().into(),
        })
    }),
    ("isGlobalUnicast", MEMBER, TEST, ONE, |args| {
        of(args, |ip| {
            let special = match ip {
                IpAddr::V4(ip) => ip.is_broadcast() || ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            (!special && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()).into()
        })
    }),
    ("cidr", GLOBAL, "string: net.CIDR", Cost::Text(1.0), |args| {
        let Some(text) = args[0].as_str() else { return Err(Error::NoOverload) };
        match parse_cidr(text) {
            Some((ip, bits)) => Ok(Value::Cidr(ip, bits)),
            None => failed(format!("network address parse error during conversion from string: {text:?}")),
        }
    }),
    ("isCIDR", GLOBAL, "string: bool", Cost::Text(1.0), |args| one(args, |text| parse_cidr(text).is_some().into())),
    ("ip", MEMBER, "net.CIDR: net.IP", ONE, |args| match args {
        [Value::Cidr(ip, _)] => Ok(Value::Ip(*ip)),
        _ => Err(Error::NoOverload),
    }),
    ("prefixLength", MEMBER, "net.CIDR: int", ONE, |args| match args {
        [Value::Cidr(_, bits)] => Ok(Value::Int((*bits).into())),
        _ => Err(Error::NoOverload),
    }),
    ("masked", MEMBER, "net.CIDR: net.CIDR", ONE, |args| match args {
        [Value::Cidr(ip, bits)] => Ok(Value::Cidr(masked(*ip, *bits), *bits)),
        _ => Err(Error::NoOverload),
    }),
    ("containsIP", MEMBER, "net.CIDR net.IP: bool | net.CIDR string: bool", Cost::Cidr(false), |args| {
        let ip = match &args[1] {
            Value::Ip(ip) => *ip,
            Value::String(text) => match parse(text) {
                Ok(ip) => ip,
                Err(why) => {
                    return failed(format!("IP Address {text:?} parse error during conversion from string: {why}"));
                }
            },
            _ => return Err(Error::NoOverload),
        };
        let full = if ip.is_ipv4() { 32 } else { 128 };
        contains(&args[0], ip, full)
    }),
    ("containsCIDR", MEMBER, "net.CIDR net.CIDR: bool | net.CIDR string: bool", Cost::Cidr(true), |args| {
        match &args[1] {
            Value::Cidr(ip, bits) => contains(&args[0], *ip, *bits),
            Value::String(text) => match parse_cidr(text) {
                Some((ip, bits)) => contains(&args[0], ip, bits),
                None => failed(format!("network address parse error during conversion from string: {text:?}")),
            },
            _ => Err(Error::NoOverload),
        }
    }),
];

fn of(args: &[Value], f: impl Fn(IpAddr) -> Value) -> Outcome {
    match args {
        [Value::Ip(ip)] => Ok(f(*ip)),
        _ => Err(Error::NoOverload),
    }
}

/// An address; neither zones nor IPv4 addresses in IPv6 notation.
fn parse(text: &str) -> Result<IpAddr, &'static str> {
    if text.contains('%') {
        return Err("IP address with zone value is not allowed");
    }
    match text.parse() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => Err("IPv4-mapped IPv6 address is not allowed"),
        Ok(ip) => Ok(ip),
        Err(_) => Err("unable to parse IP"),
    }
}

fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = text.split_once('/')?;
    let ip = parse(ip).ok()?;
    let plain = bits.bytes().all(|b| b.is_ascii_digit()) && (bits.len() == 1 || !bits.starts_with('0'));
    let bits: u8 = bits.parse().ok().filter(|_| plain)?;
    (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, bits))
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

fn contains(range: &Value, ip: IpAddr, ip_bits: u8) -> Outcome {
    let Value::Cidr(network, bits) = range else { return Err(Error::NoOverload) };
    let within = network.is_ipv4() == ip.is_ipv4() && *bits <= ip_bits && masked(ip, *bits) == masked(*network, *bits);
    Ok(Value::Bool(within))
}
