//! The numbers that the redirection, the proxy and the kernel must agree on.

/// Where the proxy takes in what the application sends, on loopback.
pub const OUTBOUND_PORT: u16 = 15001;

/// Nothing listens here: that the proxy reaches itself through it proves the redirection.
pub const CHECK_PORT: u16 = 15002;

/// Where the proxy takes in what comes to the application, on every address.
pub const INBOUND_PORT: u16 = 15006;

/// The SO_PRIORITY (of the highest that need no right) with which the outbound side dials this very pod. On
/// loopback nothing else would tell it from the inbound side that dials the application.
pub const TO_OURSELVES: u32 = 6;
