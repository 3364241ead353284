//! Random files that grow in random pieces, read in random portions, with random restarts, against
//! the plain definition: the lines of the text.

use super::*;

struct Growing {
    name: String,
    bytes: Vec<u8>,
    given: usize,
    expected: Vec<Line>,
}

fn line(random: &mut Random) -> Vec<u8> {
    let size = match random.below(40) {
        0 => 100_000 + random.below(900_000),
        1 => 2_990_000 + random.below(40_000),
        2..10 => 0,
        _ => random.below(300),
    };
    let mut line = noise(size as usize, random.below(1 << 40));
    if random.below(5) == 0 {
        line.push(b'\r');
    }
    line
}

fn growing(name: String, random: &mut Random) -> Growing {
    let lines: Vec<_> = (0..random.below(60)).map(|_| line(random)).collect();
    let mut text = lines.join(&b'\n');
    let mut expected: Vec<_> = lines
        .into_iter()
        .map(|line| match line.len() as u64 {
            size if size > VALUE_BYTES_MAX => Line::TooLarge(line[..4096].to_vec(), size),
            _ => Line::Whole(line),
        })
        .collect();
    let ended = random.below(2) == 0;
    if ended && !expected.is_empty() {
        text.push(b'\n');
    } else if text.ends_with(b"\n") || text.is_empty() || name.ends_with("jsonl") {
        // An empty last line without LF is none; of a plain file the last line waits for its LF.
        expected.pop();
    }
    let members = |encode: fn(&[u8]) -> Vec<u8>, random: &mut Random| {
        let mut packed = Vec::new();
        let mut rest = &text[..];
        while !rest.is_empty() {
            let (member, after) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
            packed.extend(encode(member));
            rest = after;
        }
        packed
    };
    let bytes = match ENCODERS.iter().find(|(suffix, _)| name.ends_with(suffix)) {
        Some((_, encode)) => members(*encode, random),
        None => text,
    };
    Growing { name, bytes, given: 0, expected }
}

#[test]
fn whatever_the_growth_and_the_restarts_every_line_is_read_once() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let mut bench = Bench::new();
        let mut files: Vec<_> = [".jsonl", ".jsonl.gz", ".jsonl.zst"]
            .iter()
            .flat_map(|suffix| [format!("calls{suffix}"), format!("trajectories{suffix}")])
            .map(|name| growing(name, &mut random))
            .collect();
        while files.iter().any(|file| file.given < file.bytes.len()) {
            for file in &mut files {
                let left = (file.bytes.len() - file.given) as u64;
                let most = 1 + random.below(400_000);
                let piece = random.below(left.min(most) + 1) as usize;
                bench.append(&file.name, &file.bytes[file.given..file.given + piece]);
                file.given += piece;
            }
            bench.taken.at_most = random.below(30) as usize;
            for _ in 0..random.below(4) {
                bench.poll().unwrap();
            }
            if random.below(8) == 0 {
                bench.source = None;
            }
        }
        bench.taken.at_most = 0;
        bench.run().unwrap();
        bench.settle();
        bench.run().unwrap();
        for file in &files {
            let found = bench.taken.lines.remove(&file.name).unwrap_or_default();
            assert_eq!(found, file.expected, "{} with seed {seed}", file.name);
        }
    }
}
