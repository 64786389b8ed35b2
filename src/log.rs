//! Stub, being written.
/// Reason.
pub fn reason(error: &std::io::Error) -> String {
    crate::protocol::error::os_reason(error)
}
