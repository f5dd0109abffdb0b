//! What netfilter's messages are made of.

/// A list of netlink attributes (`struct nlattr`), as far as it is one: what is cut short ends it.
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

/// One of them.
pub(super) struct Attribute<'a> {
    /// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    pub(super) kind: u16,
    pub(super) value: &'a [u8],
    /// With its header, without padding.
    pub(super) whole: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        const HEADER_BYTES: usize = 4;
        const KIND_MASK: u16 = 0x3fff;
        let [length_low, length_high, kind_low, kind_high, ..] = *self.0 else { return None };
        let length = usize::from(u16::from_ne_bytes([length_low, length_high]));
        let whole = self.0.get(..length).filter(|_| length >= HEADER_BYTES)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind: u16::from_ne_bytes([kind_low, kind_high]) & KIND_MASK, value: &whole[HEADER_BYTES..], whole })
    }
}

impl Attribute<'_> {
    /// The value as text, which the kernel ends with a NUL.
    pub(super) fn text(&self) -> String {
        let text = self.value.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }

    /// The value as a number in network byte order, as nftables has them.
    pub(super) fn number(&self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }
}
