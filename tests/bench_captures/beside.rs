/// Bytes of a neighbour that are not yet written to the disk.
const UNWRITTEN: usize = 1_500 << 20;
/// Changed files of the capture, of 1 MiB each.
const CHANGED: usize = 100;
/// The number of captures; and the number of the neighbour's syncs that are timed without a capture, and from the start
/// of one.
const CAPTURES: usize = 2;
/// How often it is captured and pushed on a quiet disk.
const QUIET: usize = 4;
const SYNCS: usize = 60;

/// Measures a capture on a disk to which a neighbour has much data to write, and the neighbour's syncs during the
/// capture.
///
/// `cargo xtask bench busy` also compiles this file with an earlier version of this program, so it uses only names that
/// both versions have.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement that needs the input of `cargo xtask bench`"]
async fn bench_captures_beside_a_neighbour() {
    use std::{
        io::Write as _,
        sync::atomic::{AtomicBool, Ordering},
    };

    fn unwritten(dir: &Path) {
        let _ = fs::remove_file(dir.join("neighbour"));
        rustix::fs::syncfs(File::open(dir).unwrap()).unwrap();
        let (mut file, chunk) = (File::create(dir.join("neighbour")).unwrap(), vec![7; 1 << 20]);
        (0..UNWRITTEN >> 20).for_each(|_| file.write_all(&chunk).unwrap());
    }
    /// The times to append a little to a file and sync it, until `enough` returns true for their number.
    fn syncs(dir: &Path, enough: impl Fn(usize) -> bool) -> Vec<f64> {
        let mut file = File::create(dir.join("synced")).unwrap();
        let mut times = Vec::new();
        while !enough(times.len()) {
            let since = Instant::now();
            file.write_all(&[7; 4096]).unwrap();
            file.sync_all().unwrap();
            times.push(since.elapsed().as_secs_f64());
        }
        times
    }

    let (given, mut pods) = (Given::new(), 0);
    let node = Node::new(&given, "beside", Arc::new(NoSnapshots));
    let (mut captures, mut alone, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=CAPTURES {
        let pod = next(&mut pods);
        let target = node.of_image(&pod, "bench:1").await;
        if round == 0 {
            // Takes the costs that come only once.
            node.cut(&pod).await;
            continue;
        }
        unwritten(&given.dir);
        alone.extend(syncs(&given.dir, |count| count == SYNCS));
        write(&target, CHANGED, 1 << 20);
        unwritten(&given.dir);
        // The volume's bytes are on the disk, and the neighbour's are not.
        let done = Arc::new(AtomicBool::new(false));
        let (dir, stop) = (given.dir.clone(), done.clone());
        let neighbour = std::thread::spawn(move || {
            syncs(&dir, |count| count >= SYNCS && stop.load(Ordering::Relaxed))
        });
        let time = node.cut(&pod).await.1;
        done.store(true, Ordering::Relaxed);
        beside.extend(neighbour.join().unwrap());
        captures.push(time.as_secs_f64());
    }
    // The same on a disk that has nothing else to write, and the push of it.
    let (mut quiet, mut pushes) = (Vec::new(), Vec::new());
    fs::remove_file(given.dir.join("neighbour")).unwrap();
    for _ in 0..QUIET {
        let pod = next(&mut pods);
        let target = node.of_image(&pod, "bench:1").await;
        write(&target, CHANGED, 1 << 20);
        rustix::fs::syncfs(File::open(&given.dir).unwrap()).unwrap();
        quiet.push(node.cut(&pod).await.1.as_secs_f64());
        pushes.push(node.push(&pod).await.1.as_secs_f64());
    }
    println!(
        "BENCH {}",
        json!({
            "captures": captures, "alone": alone, "beside": beside, "quiet": quiet, "pushes": pushes,
        })
    );
}
