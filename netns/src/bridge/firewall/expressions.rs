//! What rules are made of: expressions that load into registers, and go on to the next one or not.

use std::ffi::CStr;

use netlink_bindings::nftables::{CmpOps, CtKeys, FibFlags, MetaKeys, PayloadBase, PushExprListAttrs, Registers, VerdictCode};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};

/// Bytes of a link name as nftables compares it (`IFNAMSIZ`).
const NAME_BYTES: usize = 16;
/// Where the destination port is in a header of TCP, UDP or SCTP, in bytes.
const DESTINATION_PORT_OFFSET: u32 = 2;
/// The first register of four bytes; a key of several parts begins there, and each part in a register of its own.
pub(super) const FIRST: u32 = Registers::Reg3200 as u32;
const REGISTER_BYTES: u32 = 4;

/// The register after what takes that many bytes from `register` on.
pub(super) fn register_after(register: u32, bytes: u32) -> u32 {
    register + bytes.div_ceil(REGISTER_BYTES)
}

/// A link that a packet comes or goes by.
pub(super) enum Link<'a> {
    /// This one.
    Is(&'a str),
    /// Any other.
    OtherThan(&'a str),
}

/// Loads an address of the IP header.
pub(super) fn load_address<P: Pusher>(rule: PushExprListAttrs<P>, offset: u32, bytes: u32) -> PushExprListAttrs<P> {
    load_payload(rule, PayloadBase::NetworkHeader, offset, bytes, FIRST)
}

pub(super) fn load_payload<P: Pusher>(
    rule: PushExprListAttrs<P>,
    base: PayloadBase,
    offset: u32,
    bytes: u32,
    register: u32,
) -> PushExprListAttrs<P> {
    let load = rule.nested_elem().nested_data_payload().push_dreg(register);
    let load = load.push_base(base as u32).push_offset(offset).push_len(bytes);
    load.end_nested().end_nested()
}

/// Loads the transport protocol into `register`, and the destination port into the one after it.
pub(super) fn load_protocol_and_port<P: Pusher>(rule: PushExprListAttrs<P>, register: u32) -> PushExprListAttrs<P> {
    let load = rule.nested_elem().nested_data_meta().push_key(MetaKeys::L4Proto as u32).push_dreg(register);
    let rule = load.end_nested().end_nested();
    load_payload(rule, PayloadBase::TransportHeader, DESTINATION_PORT_OFFSET, 2, register + 1)
}

/// Goes on only if what was loaded is in the set, or is not with [`LookupFlags::Invert`](netlink_bindings::nftables::LookupFlags).
pub(super) fn require_in_set<P: Pusher>(rule: PushExprListAttrs<P>, set: &CStr, flags: u32) -> PushExprListAttrs<P> {
    lookup(rule, set, None, flags)
}

/// Goes on only if what was loaded is in the map, and loads what it leads to in its place.
pub(super) fn load_from_map<P: Pusher>(rule: PushExprListAttrs<P>, map: &CStr) -> PushExprListAttrs<P> {
    lookup(rule, map, Some(FIRST), 0)
}

/// The numbers are those of the kernel's `enum nft_lookup_attributes`: the bindings have others for this expression.
fn lookup<P: Pusher>(rule: PushExprListAttrs<P>, set: &CStr, into: Option<u32>, flags: u32) -> PushExprListAttrs<P> {
    const NFTA_EXPR_DATA: u16 = 2;
    const NFTA_LOOKUP_SET: u16 = 1;
    const NFTA_LOOKUP_SREG: u16 = 2;
    const NFTA_LOOKUP_DREG: u16 = 3;
    const NFTA_LOOKUP_FLAGS: u16 = 5;
    let mut lookup = rule.nested_elem().push_name(c"lookup");
    let buffer = lookup.as_vec_mut();
    let data = push_nested_header(buffer, NFTA_EXPR_DATA);
    push_attribute(buffer, NFTA_LOOKUP_SET, set.to_bytes_with_nul());
    push_attribute(buffer, NFTA_LOOKUP_SREG, &FIRST.to_be_bytes());
    if let Some(register) = into {
        push_attribute(buffer, NFTA_LOOKUP_DREG, &register.to_be_bytes());
    }
    push_attribute(buffer, NFTA_LOOKUP_FLAGS, &flags.to_be_bytes());
    finalize_nested_header(buffer, data);
    lookup.end_nested()
}

fn push_attribute(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("register numbers and names of ours are short");
    push_header(buffer, kind, length);
    buffer.extend_from_slice(value);
}

/// Goes on only if the packet leaves by such a link.
pub(super) fn require_link_out<P: Pusher>(rule: PushExprListAttrs<P>, link: Link<'_>) -> PushExprListAttrs<P> {
    require_link(rule, MetaKeys::Oifname, link)
}

/// Goes on only if the packet came by such a link.
pub(super) fn require_link_in<P: Pusher>(rule: PushExprListAttrs<P>, link: Link<'_>) -> PushExprListAttrs<P> {
    require_link(rule, MetaKeys::Iifname, link)
}

fn require_link<P: Pusher>(rule: PushExprListAttrs<P>, key: MetaKeys, link: Link<'_>) -> PushExprListAttrs<P> {
    let (name, operation) = match link {
        Link::Is(name) => (name, CmpOps::Eq),
        Link::OtherThan(name) => (name, CmpOps::Neq),
    };
    let mut padded = name.as_bytes().to_vec();
    padded.resize(NAME_BYTES, 0);
    let load = rule.nested_elem().nested_data_meta().push_key(key as u32);
    let rule = load.push_dreg(FIRST).end_nested().end_nested();
    compare(rule, operation, &padded)
}

/// Goes on only if what was loaded compares like this.
pub(super) fn compare<P: Pusher>(rule: PushExprListAttrs<P>, operation: CmpOps, value: &[u8]) -> PushExprListAttrs<P> {
    let compare = rule.nested_elem().nested_data_cmp().push_sreg(FIRST);
    let compare = compare.push_op(operation as u32).nested_data().push_value(value).end_nested();
    compare.end_nested().end_nested()
}

/// Goes on only if the destination is an address of the node's own.
pub(super) fn require_local_destination<P: Pusher>(rule: PushExprListAttrs<P>) -> PushExprListAttrs<P> {
    /// `NFT_FIB_RESULT_ADDRTYPE` of the kernel; the bindings number these from 0.
    const ADDRESS_TYPE: u32 = 3;
    /// `RTN_LOCAL`
    const LOCAL: u32 = 2;
    let load = rule.nested_elem().nested_data_fib().push_dreg(FIRST).push_result(ADDRESS_TYPE);
    let rule = load.push_flags(FibFlags::Daddr as u32).end_nested().end_nested();
    compare(rule, CmpOps::Eq, &LOCAL.to_ne_bytes())
}

/// Goes on only if the flow's destination was rewritten.
pub(super) fn require_rewritten_destination<P: Pusher>(rule: PushExprListAttrs<P>) -> PushExprListAttrs<P> {
    /// `IPS_DST_NAT`
    const DESTINATION_NAT: u32 = 1 << 5;
    let load = rule.nested_elem().nested_data_ct().push_dreg(FIRST).push_key(CtKeys::Status as u32);
    let rule = load.end_nested().end_nested();
    let rule = mask(rule, &DESTINATION_NAT.to_ne_bytes());
    compare(rule, CmpOps::Neq, &[0; 4])
}

/// Keeps those bits of what was loaded that are set here.
pub(super) fn mask<P: Pusher>(rule: PushExprListAttrs<P>, mask: &[u8; 4]) -> PushExprListAttrs<P> {
    let bitwise = rule.nested_elem().nested_data_bitwise().push_sreg(FIRST).push_dreg(FIRST).push_len(REGISTER_BYTES);
    let bitwise = bitwise.nested_mask().push_value(mask).end_nested();
    bitwise.nested_xor().push_value(&[0; 4]).end_nested().end_nested().end_nested()
}

/// The end of a rule: the source becomes an address of the link that the packet leaves by.
pub(super) fn masquerade<P: Pusher>(rule: PushExprListAttrs<P>) {
    rule.nested_elem().push_name(c"masq");
}

/// The end of a rule: the destination becomes the address that was loaded, and the port after it.
pub(super) fn rewrite_destination<P: Pusher>(rule: PushExprListAttrs<P>, nfproto: u8, address_bytes: u32) {
    /// `NFT_NAT_DNAT`
    const DESTINATION: u32 = 1;
    let nat = rule.nested_elem().nested_data_nat().push_type(DESTINATION).push_family(nfproto.into());
    nat.push_reg_addr_min(FIRST).push_reg_proto_min(register_after(FIRST, address_bytes));
}

/// The end of a rule: another chain takes over.
pub(super) fn go_to<P: Pusher>(rule: PushExprListAttrs<P>, chain: &CStr) {
    let verdict = rule.nested_elem().nested_data_immediate().push_dreg(Registers::RegVerdict as u32);
    verdict.nested_data().nested_verdict().push_code(VerdictCode::Goto as u32).push_chain(chain);
}

/// The end of a rule, and of the packet.
pub(super) fn drop_packet<P: Pusher>(rule: PushExprListAttrs<P>) {
    let verdict = rule.nested_elem().nested_data_immediate().push_dreg(Registers::RegVerdict as u32);
    verdict.nested_data().nested_verdict().push_code(VerdictCode::Drop as u32);
}
