//! Big-endian reading and writing of TPM fields (Part 2 §4), shared by structures here and commands in the runner.
//!
//! No recursion and no allocation by claimed length: a reader only ever lends from its input.

use super::TpmError;

/// Longest `TPM2B` body we write or accept; TPM buffers are far smaller.
pub const MAX_SIZED: usize = 4096;

/// Reads fields from the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`TpmError::Truncated`] if fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], TpmError> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(TpmError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TpmError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(TpmError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    /// `UINT8`.
    ///
    /// # Errors
    /// [`TpmError::Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, TpmError> {
        Ok(self.array::<1>()?[0])
    }

    /// `UINT16`.
    ///
    /// # Errors
    /// [`TpmError::Truncated`] at the end.
    pub fn u16(&mut self) -> Result<u16, TpmError> {
        self.array().map(u16::from_be_bytes)
    }

    /// `UINT32`.
    ///
    /// # Errors
    /// [`TpmError::Truncated`] at the end.
    pub fn u32(&mut self) -> Result<u32, TpmError> {
        self.array().map(u32::from_be_bytes)
    }

    /// `UINT64`.
    ///
    /// # Errors
    /// [`TpmError::Truncated`] at the end.
    pub fn u64(&mut self) -> Result<u64, TpmError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The body of a `TPM2B`: a `UINT16` length and as many bytes.
    ///
    /// # Errors
    /// [`TpmError::Truncated`] at the end, [`TpmError::TooLong`] above [`MAX_SIZED`].
    pub fn sized(&mut self) -> Result<&'a [u8], TpmError> {
        let length = usize::from(self.u16()?);
        if length > MAX_SIZED {
            return Err(TpmError::TooLong);
        }
        self.bytes(length)
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`TpmError::TrailingBytes`] if anything is left.
    pub const fn finish(self) -> Result<(), TpmError> {
        if self.rest.is_empty() { Ok(()) } else { Err(TpmError::TrailingBytes) }
    }
}

/// Writes fields to the end of a buffer. A `TPM2B` that is too long is remembered and refused by [`Writer::finish`].
#[derive(Clone, Default)]
pub struct Writer {
    out: Vec<u8>,
    too_long: bool,
}

impl std::fmt::Debug for Writer {
    // Commands may carry authorization values, so the bytes are never shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("length", &self.out.len()).finish_non_exhaustive()
    }
}

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { out: Vec::new(), too_long: false }
    }

    /// `UINT8`.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// `UINT16`.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// `UINT32`.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// `UINT64`.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// A `TPM2B` of `body`.
    pub fn sized(&mut self, body: &[u8]) -> &mut Self {
        match u16::try_from(body.len()) {
            Ok(length) if body.len() <= MAX_SIZED => self.u16(length).bytes(body),
            _ => {
                self.too_long = true;
                self
            }
        }
    }

    /// The buffer.
    ///
    /// # Errors
    /// [`TpmError::TooLong`] if a `TPM2B` body exceeded [`MAX_SIZED`].
    pub fn finish(self) -> Result<Vec<u8>, TpmError> {
        if self.too_long { Err(TpmError::TooLong) } else { Ok(self.out) }
    }
}
