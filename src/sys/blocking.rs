//! What blocks, beside the async workers.

/// Runs what blocks (syscalls, fsync, a layer being written) on a thread of its own. It runs to its end whatever becomes of the
/// caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // Its lines in the log are the caller's: they name the same volume and pod.
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
