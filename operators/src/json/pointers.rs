//! JSON pointers (RFC 6901), many at once, answered by the validating pass itself.
//!
//! The pointers form a trie; the scanner walks it beside the document and notes the slice of each
//! value that a pointer names. When a field is repeated, everything that was noted at or below its
//! earlier occurrence is forgotten, so what remains is what the last occurrences say, on every level.
//! For that, slots are numbered in preorder: a subtree's slots are one range.

use super::{DEPTH_MAX, JsonError, cursor::Json, scan::Scanner};
use std::ops::Range;

/// A text is not a JSON pointer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PointerError {
    /// The text.
    pub pointer: String,
}

impl std::fmt::Display for PointerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} is not a JSON pointer: it must be empty or begin with /, and ~ stands only in ~0 (~) and ~1 (/)",
            self.pointer
        )
    }
}

impl std::error::Error for PointerError {}

/// One step of a pointer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The member's name, decoded.
    pub(super) name: Box<str>,
    /// The element's index, where the step can be one.
    pub(super) index: Option<usize>,
}

/// A value that one or more pointers lead to or through.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    children: Vec<(Place, usize)>,
    /// Where the value is noted.
    pub(super) slot: Option<usize>,
    /// The slots of this node and all below.
    pub(super) below: Range<usize>,
}

impl Node {
    /// The child whose step fits.
    pub(super) fn child(&self, fits: impl Fn(&Place) -> bool) -> Option<usize> {
        self.children.iter().find(|(place, _)| fits(place)).map(|(_, child)| *child)
    }
}

/// A set of pointers.
#[derive(Clone, Debug)]
pub struct Pointers {
    nodes: Vec<Node>,
    ends: Vec<usize>,
    slots: usize,
}

impl Pointers {
    /// Compiles pointers; captures are numbered by their order here. Several may be equal.
    pub fn new<P: AsRef<str>>(pointers: impl IntoIterator<Item = P>) -> Result<Self, PointerError> {
        let mut set = Pointers { nodes: vec![Node::default()], ends: Vec::new(), slots: 0 };
        for pointer in pointers {
            let end = places(pointer.as_ref())?.into_iter().fold(0, |node, place| set.step(node, place));
            set.nodes[end].slot = Some(0);
            set.ends.push(end);
        }
        set.number(0);
        Ok(set)
    }

    fn step(&mut self, node: usize, place: Place) -> usize {
        if let Some(child) = self.nodes[node].child(|known| *known == place) {
            return child;
        }
        let child = self.nodes.len();
        self.nodes.push(Node::default());
        self.nodes[node].children.push((place, child));
        child
    }

    /// Numbers the slots of a subtree in preorder.
    fn number(&mut self, root: usize) {
        let first = self.slots;
        let mut path = vec![(root, 0)];
        while let Some((node, next)) = path.pop() {
            if next == 0 {
                self.nodes[node].below.start = self.slots;
                if self.nodes[node].slot.is_some() {
                    self.nodes[node].slot = Some(self.slots);
                    self.slots += 1;
                }
            }
            match self.nodes[node].children.get(next) {
                Some((_, child)) => path.extend([(node, next + 1), (*child, 0)]),
                None => self.nodes[node].below.end = self.slots,
            }
        }
        debug_assert_eq!(self.nodes[root].below, first..self.slots);
    }

    /// Validates a whole document (nesting up to [`DEPTH_MAX`]) and notes what the pointers lead to.
    pub fn scan<'a>(&self, document: &'a [u8]) -> Result<Captures<'a, '_>, JsonError> {
        let mut found = vec![None; self.slots];
        let root = Scanner::document(document, DEPTH_MAX, &self.nodes, &mut found)?;
        Ok(Captures { root, found, pointers: self })
    }
}

/// What a set of pointers led to in one document.
#[derive(Clone, Debug)]
pub struct Captures<'a, 'p> {
    root: Json<'a>,
    found: Vec<Option<Json<'a>>>,
    pointers: &'p Pointers,
}

impl<'a> Captures<'a, '_> {
    /// The whole document.
    pub fn root(&self) -> Json<'a> {
        self.root
    }

    /// What pointer number `pointer` led to; `None` where it leads nowhere.
    pub fn get(&self, pointer: usize) -> Option<Json<'a>> {
        let slot = self.pointers.nodes[*self.pointers.ends.get(pointer)?].slot?;
        self.found[slot]
    }
}

fn places(pointer: &str) -> Result<Vec<Place>, PointerError> {
    let error = || PointerError { pointer: pointer.to_string() };
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let steps = pointer.strip_prefix('/').ok_or_else(error)?;
    steps.split('/').map(|step| place(step).ok_or_else(error)).collect()
}

fn place(step: &str) -> Option<Place> {
    let mut parts = step.split('~');
    let mut name = parts.next()?.to_string();
    for part in parts {
        name.push(match part.as_bytes().first()? {
            b'0' => '~',
            b'1' => '/',
            _ => return None,
        });
        name.push_str(&part[1..]);
    }
    let canonical = step == "0" || !step.starts_with('0') && step.bytes().all(|byte| byte.is_ascii_digit());
    let index = if canonical { step.parse().ok() } else { None };
    Some(Place { name: name.into(), index })
}
