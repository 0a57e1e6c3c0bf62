/// A neighbour's bytes that have still to be written.
const UNWRITTEN: usize = 1_500 << 20;
/// Changed files of the capture, of 1 MiB each.
const CHANGED: usize = 100;
/// How often it is captured; and how many syncs of the neighbour's are timed without a capture, and from the beginning of one.
const CAPTURES: usize = 2;
const SYNCS: usize = 60;

/// How long a capture takes on a disk for which a neighbour has much to write, and how long that neighbour's own syncs take meanwhile.
///
/// `cargo xtask bench busy` has this compiled with an earlier version too: it uses what both versions of this program have.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, and needs what `cargo xtask bench` gives it"]
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
    /// Times of appending a little to a file and syncing it, until `enough` of so many.
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
            // What comes once comes here.
            node.cut(&pod).await;
            continue;
        }
        unwritten(&given.dir);
        alone.extend(syncs(&given.dir, |count| count == SYNCS));
        // Its own bytes are on the disk; the neighbour's are not.
        write(&target, CHANGED, 1 << 20);
        unwritten(&given.dir);
        let done = Arc::new(AtomicBool::new(false));
        let (dir, ended) = (given.dir.clone(), done.clone());
        let neighbour = std::thread::spawn(move || {
            syncs(&dir, |count| count >= SYNCS && ended.load(Ordering::Relaxed))
        });
        let time = node.cut(&pod).await.1;
        done.store(true, Ordering::Relaxed);
        beside.extend(neighbour.join().unwrap());
        captures.push(time.as_secs_f64());
    }
    println!("BENCH {}", json!({ "captures": captures, "alone": alone, "beside": beside }));
}
