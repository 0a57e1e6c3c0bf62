//! The collections behave like those of the standard library, in memory and in their files.

use std::{
    collections::BTreeMap,
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use proptest::prelude::*;

use super::*;

const SMALL: usize = 64 << 10;

#[derive(Debug, Clone)]
enum Step {
    Insert(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Spill,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || prop::collection::vec(0..4_u8, 0..4);
    prop_oneof![
        6 => (key(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(key, value)| Step::Insert(key, value)),
        2 => key().prop_map(Step::Remove),
        1 => Just(Step::Spill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_map_behaves_the_same_in_its_file(steps in prop::collection::vec(step(), 0..60), from in prop::collection::vec(0..4_u8, 0..3)) {
        let (mut map, mut model) = (Map::default(), BTreeMap::new());
        for step in steps {
            match step {
                Step::Insert(key, value) => {
                    let before = map.insert(key.clone().into(), value.clone()).unwrap();
                    prop_assert_eq!(before, model.insert(key, value));
                }
                Step::Remove(key) => {
                    map.remove(&key).unwrap();
                    model.remove(&key);
                }
                Step::Spill => map.spill(&Scratch::default(), SMALL).unwrap(),
            }
            prop_assert_eq!(map.len(), model.len() as u64);
        }
        for (key, value) in &model {
            let found = map.get(key).unwrap();
            prop_assert_eq!(found.as_ref(), Some(value));
        }
        prop_assert_eq!(map.get(b"none").unwrap(), None);
        let mut found = Vec::new();
        map.each(&from, &[9], |key, value: &Vec<u8>| {
            found.push((key.to_vec(), value.clone()));
            Ok::<_, io::Error>(())
        }).unwrap();
        let expected: Vec<_> = model.range(from..).map(|(key, value)| (key.clone(), value.clone())).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn texts_are_read_sorted_and_records_in_their_order(texts in prop::collection::vec(prop::collection::vec(0..3_u8, 0..6), 0..200), most in 8..400_usize) {
        let mut sorter = Sorter::new(&Scratch::default(), most);
        let mut spool = Spool::new(&Scratch::default(), most);
        for text in &texts {
            sorter.push(text).unwrap();
            spool.push(text).unwrap();
        }
        let mut spooled = spool.read().unwrap();
        for text in &texts {
            prop_assert_eq!(spooled.read_next().unwrap(), Some(text.as_slice()));
        }
        prop_assert_eq!(spooled.read_next().unwrap(), None);
        let sorted = sorter.sorted().unwrap();
        prop_assert_eq!(sorted.len(), texts.len() as u64);
        let mut expected = texts;
        expected.sort();
        // Twice, because it can be read again.
        for _ in 0..2 {
            let mut reader = sorted.read().unwrap();
            for text in &expected {
                prop_assert_eq!(reader.read_next().unwrap(), Some(text.as_slice()));
            }
            prop_assert_eq!(reader.read_next().unwrap(), None);
        }
    }
}

#[test]
fn a_list_behaves_the_same_in_its_file() {
    let mut list = List::<Vec<u8>>::default();
    for number in 0..300_usize {
        if number == 150 {
            list.spill(&Scratch::default(), SMALL).unwrap();
        }
        assert_eq!(list.push(number.to_string().into_bytes()).unwrap(), number);
    }
    list.change(7, |value| value.push(b'!')).unwrap();
    for (number, expected) in [(0, "0"), (7, "7!"), (149, "149"), (299, "299")] {
        let found = list.read(number, |value| String::from_utf8(value.clone()).unwrap());
        assert_eq!(found.unwrap(), expected);
    }
    assert_eq!(list.read(300, |_| ()).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(list.memory() <= SMALL);
}

#[test]
fn a_scratch_file_has_no_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = Scratch::new(directory.path()).file().unwrap();
    assert_eq!(file.len().unwrap(), 0);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let missing = Scratch::new(directory.path().join("missing")).file().unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
}

/// Each collection gets more than fits in memory, and then more than fits on the disk.
#[test]
fn a_collection_requests_disk_space_and_fails_without_it() {
    let left = Arc::new(AtomicU64::new(64 << 20));
    let given = left.clone();
    let scratch = Scratch::default().with_limit(move |bytes| {
        let taken = given.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        taken.map(drop).map_err(|_| io::Error::new(io::ErrorKind::StorageFull, "no space"))
    });
    let (mut map, mut spool) = (Map::default(), Spool::new(&scratch, SMALL));
    let mut sorter = Sorter::new(&scratch, SMALL);
    map.spill(&scratch, SMALL).unwrap();
    let mut number = 0_u64;
    let mut each = |fill: &mut dyn FnMut(&[u8]) -> io::Result<()>, fits: bool| {
        let before = left.load(Relaxed);
        for _ in 0..2_000 {
            number += 1;
            if let Err(error) = fill(&[&number.to_be_bytes()[..], &[7; 1_000]].concat()) {
                assert!(!fits && error.to_string().contains("no space"), "{error}");
                return;
            }
        }
        assert!(fits && left.load(Relaxed) <= before - 1_500_000);
    };
    each(&mut |text| sorter.push(text), true);
    each(&mut |text| spool.push(text), true);
    each(&mut |text| map.insert(text[..8].into(), text.to_vec()).map(drop), true);
    left.store(1_000_000, Relaxed);
    each(&mut |text| sorter.push(text), false);
    each(&mut |text| spool.push(text), false);
    left.store(0, Relaxed);
    each(&mut |text| map.insert(text[..8].into(), text.repeat(20)).map(drop), false);
}
