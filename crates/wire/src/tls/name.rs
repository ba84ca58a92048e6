//! A distinguished name as text, as Java prints it and Kafka takes it for a principal: last part first (RFC 2253).

/// Types printed by name (RFC 2253, section 2.3); others are printed by their number.
const TYPES: [(&[u8], &str); 9] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
];
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const BMP_STRING: u8 = 0x1e;

/// The name whose parts `der` holds (a SEQUENCE of SETs, its own tag taken off); `None` if it is malformed.
pub(super) fn printed(mut der: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !der.is_empty() {
        let mut set = element(&mut der, SET)?;
        let mut pairs = Vec::new();
        while !set.is_empty() {
            let mut pair = element(&mut set, SEQUENCE)?;
            pairs.push(attribute(element(&mut pair, OBJECT_ID)?, pair)?);
        }
        parts.push(pairs.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

/// Takes one element off: its tag and its content.
fn any<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&short, mut rest) = rest.split_first()?;
    let len = if short < 0x80 {
        usize::from(short)
    } else {
        let (digits, after) =
            rest.split_at_checked(usize::from(short & 0x7f)).filter(|(digits, _)| digits.len() <= 3)?;
        rest = after;
        digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit))
    };
    let (content, after) = rest.split_at_checked(len)?;
    *der = after;
    Some((tag, content))
}

fn element<'a>(der: &mut &'a [u8], wanted: u8) -> Option<&'a [u8]> {
    any(der).filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
}

fn attribute(kind: &[u8], value: &[u8]) -> Option<String> {
    let mut rest = value;
    let (tag, content) = any(&mut rest)?;
    let named = TYPES.iter().find(|(id, _)| *id == kind).map(|(_, name)| *name);
    match (named, text(tag, content)) {
        (Some(name), Some(text)) => Some(format!("{name}={}", escaped(&text))),
        (Some(name), None) => Some(format!("{name}=#{}", hex(value))),
        (None, _) => Some(format!("{}=#{}", number(kind)?, hex(value))),
    }
}

fn text(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => String::from_utf8(content.to_vec()).ok(),
        TELETEX_STRING => Some(content.iter().map(|byte| char::from(*byte)).collect()),
        BMP_STRING => {
            let units: Vec<u16> = content
                .chunks_exact(2)
                .map(|pair| pair.iter().fold(0, |unit, byte| unit << 8 | u16::from(*byte)))
                .collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

/// `text` with what has a meaning in a name behind a backslash.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (index, character) in text.chars().enumerate() {
        let at_edge = (character == ' ' && (index == 0 || index == last)) || (character == '#' && index == 0);
        if at_edge || ",+\"\\<>;=".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `1.2.840.113549.1.9.1`
fn number(id: &[u8]) -> Option<String> {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for byte in id {
        arc = arc.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let first = (arc / 40).min(2);
                arcs.push(first);
                arc -= first * 40;
            }
            arcs.push(arc);
            arc = 0;
        }
    }
    Some(arcs.iter().map(ToString::to_string).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    fn part(kind: &[u8], tag: u8, value: &str) -> Vec<u8> {
        let pair = [tlv(OBJECT_ID, kind), tlv(tag, value.as_bytes())].concat();
        tlv(SET, &tlv(SEQUENCE, &pair))
    }

    #[test]
    fn names_are_printed_last_part_first_and_escaped_as_java_does() {
        let mail = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];
        let name = [
            part(&[0x55, 4, 6], PRINTABLE_STRING, "DE"),
            part(&[0x55, 4, 10], UTF8_STRING, "Hunt, Sons"),
            part(&[0x55, 4, 3], UTF8_STRING, " ana"),
            part(&mail, IA5_STRING, "a@b"),
        ];
        assert_eq!(
            printed(&name.concat()).unwrap(),
            "1.2.840.113549.1.9.1=#1603614062,CN=\\ ana,O=Hunt\\, Sons,C=DE"
        );
        assert_eq!(printed(&[]).unwrap(), "");
    }

    #[test]
    fn a_name_cut_short_is_refused_and_not_guessed() {
        let name = part(&[0x55, 4, 3], UTF8_STRING, "ana");
        for len in 1..name.len() {
            assert_eq!(printed(&name[..len]), None, "{len}");
        }
    }
}
