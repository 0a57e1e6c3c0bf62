//! Runs blocking calls outside of the async worker threads.

/// Runs blocking work, such as system calls, an fsync or writing a layer, on a separate thread.
///
/// The work runs to its end, even if the caller is cancelled.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // The caller's span: log lines of the work name the same volume and pod.
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
