// SPDX-License-Identifier: Apache-2.0
//! Waiting for a condition, with a limit and a reason when it runs out.

use anyhow::bail;
use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks `probe` until it gives a value. An error of the probe is not final: the last one is told
/// when the time runs out.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    probe: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    wait_every(what, limit, PAUSE, probe)
}

/// Like [`wait_for`] with a pause of one's own.
pub fn wait_every<T>(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut probe: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let mut last = String::from("not yet");
    while start.elapsed() < limit {
        match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = format!("{error:#}"),
        }
        std::thread::sleep(pause);
    }
    bail!("waited {} s for {what}: {last}", limit.as_secs())
}

#[cfg(test)]
mod tests {
    use super::wait_for;
    use anyhow::anyhow;
    use std::time::Duration;

    #[test]
    fn a_probe_may_fail_before_it_succeeds() {
        let mut looks = 0;
        let got = wait_for("it", Duration::from_secs(5), || {
            looks += 1;
            if looks < 3 { Err(anyhow!("busy")) } else { Ok(Some(looks)) }
        });
        assert_eq!(got.unwrap(), 3);
    }

    #[test]
    fn the_last_reason_is_told() {
        let got =
            wait_for::<()>("the page", Duration::from_millis(150), || Err(anyhow!("refused")));
        let text = got.unwrap_err().to_string();
        assert!(text.contains("the page") && text.contains("refused"), "{text}");
    }
}
