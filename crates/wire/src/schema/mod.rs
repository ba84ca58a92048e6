//! Checks lengths and counts of a request against the bytes that are there, before anything is allocated for it.
//!
//! The codec reserves room for as many elements as a request announces; a 40-byte frame may announce two thousand
//! million. So the layout of every request (a table made from the codec's own sources) is walked first, without
//! allocating: each length must fit the bytes left, each count the bytes left, and all counts together
//! [`ELEMENTS_MAX`]. It costs one pass over the request outside its record bytes.

use kafka_protocol::messages::ApiKey;

mod table;

/// Cap on the array elements and tagged fields of one request, all arrays together.
pub const ELEMENTS_MAX: usize = 1 << 18;

/// A field's place and shape.
struct Field {
    /// First version that has it.
    min: i16,
    /// Last version that has it.
    max: i16,
    /// Its shape.
    kind: Kind,
}

/// Shape of a field.
enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// A string: 16-bit or compact length.
    Text,
    /// Bytes: 32-bit or compact length.
    Bytes,
    /// An array: 32-bit or compact count.
    Array(&'static Kind),
    /// A nested structure.
    Struct(&'static Schema),
    /// A nested structure behind a presence byte.
    Nullable(&'static Schema),
    /// A field behind its tag and size. The codec reads one it knows as it is, whatever its size says.
    Tagged(usize, &'static Kind),
}

/// A structure: its fields in wire order, then the tagged ones.
struct Schema {
    /// First version with compact lengths and tagged fields.
    flexible: i16,
    /// The fields.
    fields: &'static [Field],
}

/// Whether `body` (a request of `api` at `version`, header taken off) has lengths and counts that its bytes can hold.
/// `None` if not, or if this build does not know the API's layout.
#[must_use]
pub fn is_plausible(api: ApiKey, version: i16, body: &[u8]) -> bool {
    let Some(schema) = table::layout(api) else { return false };
    let mut walk = Walk { bytes: body, version, elements_left: ELEMENTS_MAX };
    walk.structure(schema).is_some()
}

struct Walk<'a> {
    bytes: &'a [u8],
    version: i16,
    elements_left: usize,
}

impl Walk<'_> {
    fn skip(&mut self, len: usize) -> Option<()> {
        self.bytes = self.bytes.get(len..)?;
        Some(())
    }

    fn unsigned(&mut self) -> Option<usize> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).ok();
            }
        }
        None
    }

    /// A length or count: `None` malformed, `Some(None)` null.
    #[expect(clippy::option_option, reason = "malformed and null are two answers")]
    fn length(&mut self, flexible: bool, narrow: bool) -> Option<Option<usize>> {
        let length = if flexible {
            self.unsigned()?.checked_sub(1)
        } else if narrow {
            let (bytes, rest) = self.bytes.split_first_chunk::<2>()?;
            self.bytes = rest;
            let length = i16::from_be_bytes(*bytes);
            if length < -1 {
                return None;
            }
            usize::try_from(length).ok()
        } else {
            let (bytes, rest) = self.bytes.split_first_chunk::<4>()?;
            self.bytes = rest;
            let length = i32::from_be_bytes(*bytes);
            if length < -1 {
                return None;
            }
            usize::try_from(length).ok()
        };
        if length.is_some_and(|length| length > self.bytes.len()) { None } else { Some(length) }
    }

    fn structure(&mut self, schema: &'static Schema) -> Option<()> {
        let flexible = self.version >= schema.flexible;
        for field in schema.fields {
            if (field.min..=field.max).contains(&self.version) {
                self.kind(&field.kind, flexible)?;
            }
        }
        if flexible {
            let count = self.unsigned()?;
            self.elements_left = self.elements_left.checked_sub(count)?;
            for _ in 0..count {
                self.tagged(schema)?;
            }
        }
        Some(())
    }

    /// One tagged field: a known one takes exactly the bytes that its size announces.
    fn tagged(&mut self, schema: &'static Schema) -> Option<()> {
        let (tag, len) = (self.unsigned()?, self.unsigned()?);
        let known = schema.fields.iter().find_map(|field| match field.kind {
            Kind::Tagged(known, kind) if known == tag => {
                (field.min..=field.max).contains(&self.version).then_some(kind)
            }
            _ => None,
        });
        let Some(kind) = known else { return self.skip(len) };
        let before = self.bytes.len();
        self.kind(kind, true)?;
        (before - self.bytes.len() == len).then_some(())
    }

    fn kind(&mut self, kind: &'static Kind, flexible: bool) -> Option<()> {
        match kind {
            Kind::Fixed(len) => self.skip(*len),
            Kind::Tagged(..) => Some(()),
            Kind::Text => match self.length(flexible, true)? {
                Some(len) => self.skip(len),
                None => Some(()),
            },
            Kind::Bytes => match self.length(flexible, false)? {
                Some(len) => self.skip(len),
                None => Some(()),
            },
            Kind::Array(element) => {
                let count = self.length(flexible, false)?.unwrap_or(0);
                self.elements_left = self.elements_left.checked_sub(count)?;
                for _ in 0..count {
                    self.kind(element, flexible)?;
                }
                Some(())
            }
            Kind::Struct(schema) => self.structure(schema),
            Kind::Nullable(schema) => {
                let (present, rest) = self.bytes.split_first()?;
                self.bytes = rest;
                if *present == 0xff { Some(()) } else { self.structure(schema) }
            }
        }
    }
}
