//! base64url without padding (RFC 7515 §2), strictly: one text for one byte string.
//!
//! Padding, white space, the `+/` alphabet and non-zero trailing bits are errors, because every second
//! spelling of a signed value is a way around a comparison.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

/// The text is not the one base64url spelling of any byte string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not base64url without padding")]
pub struct B64Error;

/// Encodes without padding.
#[must_use]
pub fn url_encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

/// Decodes the one valid spelling.
///
/// # Errors
/// [`B64Error`] for padding, white space, a foreign alphabet or non-zero trailing bits.
pub fn url_decode(text: &str) -> Result<Vec<u8>, B64Error> {
    ENGINE.decode(text).map_err(|_| B64Error)
}
