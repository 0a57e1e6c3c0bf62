//! A short run of every fuzz target: the seeds, and mutations of them.

use std::{collections::BTreeSet, fs, path::Path};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};

use super::TARGETS;

/// Mutated inputs of each target.
const CASES: u32 = 400;

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut seeds: Vec<_> = files
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// A change of an input.
#[derive(Debug, Clone)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u32),
    Insert(Index, Vec<u8>),
    Delete(Index, usize),
    /// Copies a piece of another seed.
    Splice(Index, Index, Index, usize),
    Truncate(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // The bytes with which formats separate and escape, and a few others.
    let byte = prop_oneof![
        prop::sample::select(b"\0\n /.=,:@\"{}[]\\-09azAZ\x7f\xff".to_vec()),
        any::<u8>()
    ];
    let index = any::<Index>;
    prop_oneof![
        (index(), byte.clone()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (index(), 0..8_u32).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (index(), prop::collection::vec(byte, 1..9))
            .prop_map(|(at, new)| Mutation::Insert(at, new)),
        (index(), 1..17_usize).prop_map(|(at, len)| Mutation::Delete(at, len)),
        (index(), index(), index(), 1..1025_usize)
            .prop_map(|(at, seed, from, len)| Mutation::Splice(at, seed, from, len)),
        index().prop_map(Mutation::Truncate),
    ]
}

fn mutate(data: &mut Vec<u8>, mutation: &Mutation, seeds: &[(String, Vec<u8>)]) {
    let place = |at: &Index, len: usize| at.index(len + 1);
    match mutation {
        Mutation::Set(at, byte) if !data.is_empty() => {
            let at = at.index(data.len());
            data[at] = *byte;
        }
        Mutation::Flip(at, bit) if !data.is_empty() => {
            let at = at.index(data.len());
            data[at] ^= 1 << bit;
        }
        Mutation::Set(..) | Mutation::Flip(..) => {}
        Mutation::Insert(at, new) => {
            let at = place(at, data.len());
            data.splice(at..at, new.iter().copied());
        }
        Mutation::Delete(at, len) => {
            let at = place(at, data.len());
            data.drain(at..data.len().min(at + len));
        }
        Mutation::Splice(at, seed, from, len) => {
            let (at, other) = (place(at, data.len()), &seeds[seed.index(seeds.len())].1);
            let from = place(from, other.len());
            let piece = other[from..other.len().min(from + len)].to_vec();
            data.splice(at..at, piece);
        }
        Mutation::Truncate(at) => data.truncate(place(at, data.len())),
    }
}

/// Sets the checksums of what may be tar headers, so that mutations reach what is behind them.
fn with_checksums(mut data: Vec<u8>) -> Vec<u8> {
    for block in data.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    data
}

#[test]
fn every_target_holds_for_its_seeds_and_for_mutations_of_them() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for (file, seed) in &seeds {
            assert!(seed.len() < 64 << 10, "the seed {name}/{file} is not small");
            assert_eq!(target(seed), !file.starts_with("refused-"), "{name}/{file}");
        }
        let input = (any::<Index>(), prop::collection::vec(mutation(), 0..6), any::<bool>());
        // A failing input is printed, and not kept in a file: what to keep as a seed is a person's decision.
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(&input, |(seed, mutations, sums)| {
            let mut data = seeds[seed.index(seeds.len())].1.clone();
            mutations.iter().for_each(|mutation| mutate(&mut data, mutation, &seeds));
            _ = target(&if sums { with_checksums(data) } else { data });
            Ok(())
        });
        result.unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
}

/// `cargo fuzz` finds a target by its file.
#[test]
fn every_target_is_a_program_of_cargo_fuzz() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root.join(dir)).unwrap();
        let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| stem(&entry.unwrap().path())).collect()
    };
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("seeds"), targets);
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for name in targets {
        let program = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("_ = ovl::fuzzing::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in Cargo.toml");
    }
}
