//! When a command is killed: after it has shown no activity for too long. Its total duration does
//! not matter.
//!
//! ```text
//! it prints ─────────────────────────────────────► alive
//! it or its descendants use the processor ───────► alive, for at most PRINTLESS times the limit
//! neither, for the time of the limit ────────────► killed
//! ```
//!
//! Deliberately absent: a limit for the total. On a busy machine a command is slow without fault.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many times the limit a command may work without output. An endless loop works, too.
const PRINTLESS: u32 = 10;

/// How many checks there are in the time of a limit, and the longest time between two.
const LOOKS: u32 = 20;
const LONGEST_LOOK: Duration = Duration::from_secs(15);

/// The share of the time between two checks that counts as work, in percent of one processor. A
/// command that only polls uses less.
const WORK_PERCENT: u128 = 2;

/// A clock tick of /proc/PID/stat, in milliseconds: `USER_HZ` is 100 on every machine that Linux runs on (proc(5), time(7)).
const TICK_MILLIS: u64 = 10;

/// How many bytes a command has printed.
#[derive(Clone, Default)]
pub struct Printed(Arc<AtomicU64>);

impl Printed {
    /// Adds to the count.
    pub fn more(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Sets the count.
    pub fn are(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Returns the count.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The observed activity of one command.
pub struct IdleWatch {
    limit: Duration,
    printed: Printed,
    /// The process group, which is the process ID of its first process.
    group: i32,
    bytes: u64,
    ticks: u64,
    looked: Instant,
    last_word: Instant,
    last_sign: Instant,
}

impl IdleWatch {
    /// A watch of a command that starts now.
    pub fn new(limit: Duration, printed: Printed, group: i32) -> Self {
        let now = Instant::now();
        Self {
            limit,
            printed,
            group,
            bytes: 0,
            ticks: 0,
            looked: now,
            last_word: now,
            last_sign: now,
        }
    }

    /// The time to wait before the next check.
    pub fn pause(&self) -> Duration {
        (self.limit / LOOKS).min(LONGEST_LOOK)
    }

    /// Checks the command. Returns the reason if it must be killed.
    pub fn check(&mut self) -> Option<String> {
        let (bytes, ticks) = (self.printed.count(), ticks(self.group));
        self.saw(Instant::now(), bytes, ticks)
    }

    fn saw(&mut self, now: Instant, bytes: u64, ticks: u64) -> Option<String> {
        if bytes != self.bytes {
            (self.bytes, self.last_word, self.last_sign) = (bytes, now, now);
        }
        let between = now.saturating_duration_since(self.looked).as_millis();
        // A child that ended without a wait takes its time with it.
        let used = u128::from(ticks.saturating_sub(self.ticks) * TICK_MILLIS);
        if used > 0 && used * 100 >= between * WORK_PERCENT {
            self.last_sign = now;
        }
        (self.ticks, self.looked) = (ticks, now);
        let (silent, idle) = (now - self.last_word, now - self.last_sign);
        if idle >= self.limit {
            return Some(format!("no output and no work for {} s, killed", idle.as_secs()));
        }
        if silent >= self.limit * PRINTLESS {
            return Some(format!("no output for {} s, though it works, killed", silent.as_secs()));
        }
        None
    }
}

/// The processor time of a process with the children that it has waited for. `None` if it has ended.
pub fn cpu_time(process: u32) -> Option<Duration> {
    let stat = Stat::parse(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)?;
    Some(Duration::from_millis(stat.ticks * TICK_MILLIS))
}

/// The processor time of a process group and of the descendants of its processes, in clock ticks.
fn ticks(group: i32) -> u64 {
    let Ok(all) = fs::read_dir("/proc") else { return 0 };
    let stats: Vec<Stat> = all
        .flatten()
        .filter(|entry| {
            entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit)
        })
        // A process that has ended meanwhile has no time.
        .filter_map(|entry| Stat::parse(&fs::read_to_string(entry.path().join("stat")).ok()?))
        .collect();
    let mut ours: Vec<i32> = stats.iter().filter(|s| s.group == group).map(|s| s.id).collect();
    // A process with a group of its own is still a descendant.
    let mut at = 0;
    while at < ours.len() {
        let parent = ours[at];
        let children = stats.iter().filter(|s| s.parent == parent).map(|s| s.id);
        let new: Vec<i32> = children.filter(|id| !ours.contains(id)).collect();
        ours.extend(new);
        at += 1;
    }
    stats.iter().filter(|stat| ours.contains(&stat.id)).map(|stat| stat.ticks).sum()
}

/// The needed fields of a /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    id: i32,
    parent: i32,
    group: i32,
    /// utime, stime, and those of children that were waited for.
    ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name is in parentheses, and may contain some.
        let (id, rest) = text.split_once(" (")?;
        let fields: Vec<&str> = rest.rsplit_once(") ")?.1.split(' ').collect();
        let ticks: Option<Vec<u64>> =
            fields.get(11..15)?.iter().map(|field| field.parse().ok()).collect();
        Some(Self {
            id: id.parse().ok()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            ticks: ticks?.iter().sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(100);

    /// What happens to a command with this activity, sampled every ten seconds.
    fn seen(looks: impl Iterator<Item = (u64, u64)>) -> Option<(u32, String)> {
        let mut watch = IdleWatch::new(LIMIT, Printed::default(), 0);
        let start = watch.looked;
        (1..).zip(looks).find_map(|(number, (bytes, ticks))| {
            let now = start + Duration::from_secs(10) * number;
            watch.saw(now, bytes, ticks).map(|why| (number, why))
        })
    }

    #[test]
    fn a_slow_command_that_prints_is_left_alone() {
        assert_eq!(seen((0..5000).map(|n| (n, 0))), None);
        assert_eq!(seen((0..5000).map(|n| (n / 9, 0))), None);
    }

    #[test]
    fn a_silent_command_that_compiles_is_left_alone_for_long() {
        // A compiler that gets a twentieth of a processor.
        let compiling = |n: u64| (0, n * 50);
        assert_eq!(seen((0..99).map(compiling)), None);
        let (look, why) = seen((0..200).map(compiling)).unwrap_or_default();
        assert_eq!(look, 100);
        assert!(why.contains("though it works"), "{why}");
    }

    #[test]
    fn a_command_that_waits_is_killed_after_its_limit() {
        // A command that polls, with a hundredth of a processor.
        for waiting in [0, 10] {
            let (look, why) = seen((1..50).map(|n| (0, n * waiting))).unwrap_or_default();
            assert_eq!(look, 10, "{why}");
            assert!(why.contains("no output and no work"), "{why}");
        }
    }

    #[test]
    fn a_stat_is_read_whatever_the_process_is_called() {
        let line = "42 (a) (b c) S 7 40 40 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0";
        let stat = Stat { id: 42, parent: 7, group: 40, ticks: 100 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("42 (a"), None);
    }
}
