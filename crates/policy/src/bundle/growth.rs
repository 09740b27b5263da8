//! A look at policy text before Cedar sees it: how deep do its expressions get?
//!
//! Cedar's parser recurses without a bound, and its validator passes over an expression that is too deep for the
//! stack it happens to run on *without reporting anything* (seen in 4.14.1: about 60 parentheses end the process,
//! about 100 additions go unchecked, on 2 MiB). So depth is bounded here, far below both, by a scan that does not
//! recurse. Not a parser: what is not Cedar at all is Cedar's to refuse.

/// Brackets within brackets.
const MAX_NESTING: usize = 16;
/// Operators on the way from the outermost expression to the innermost: each may be one level of depth.
const MAX_OPERATORS: usize = 64;

/// The text grows too deep, or cannot be scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overgrown {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) problem: &'static str,
}

/// Checks that no expression is deeper than what parser, validator and evaluator can take on any thread.
pub(super) fn check(text: &str) -> Result<(), Overgrown> {
    let mut scan = Scan { rest: text.as_bytes(), line: 1, operators: vec![0] };
    while let Some(byte) = scan.next() {
        match byte {
            b'"' => scan.string()?,
            b'/' if scan.rest.first() == Some(&b'/') => scan.comment(),
            b'(' | b'[' | b'{' => scan.open()?,
            b')' | b']' | b'}' => scan.close(),
            b',' => scan.sibling(),
            b';' => scan.operators = vec![0],
            b'.' | b'!' | b'-' | b'+' | b'*' | b'&' | b'|' | b'=' | b'<' | b'>' | b'%' | b'/' => {
                scan.second_half(byte);
                scan.operator()?;
            }
            byte if is_word(byte) => {
                if matches!(
                    scan.word(byte).as_slice(),
                    b"if" | b"in" | b"is" | b"has" | b"like" | b"when" | b"unless"
                ) {
                    scan.operator()?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

struct Scan<'a> {
    rest: &'a [u8],
    line: usize,
    /// Operators at each level of brackets, outermost first; never empty.
    operators: Vec<usize>,
}

impl Scan<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    fn problem(&self, problem: &'static str) -> Overgrown {
        Overgrown { line: self.line, problem }
    }

    /// To the closing quote. A string that Cedar would not read as one must not hide what comes after it.
    fn string(&mut self) -> Result<(), Overgrown> {
        loop {
            match self.next() {
                Some(b'"') => return Ok(()),
                Some(b'\\') => match self.next() {
                    Some(b'\n' | b'\r') | None => return Err(self.problem("a string is not closed")),
                    Some(_) => {}
                },
                Some(_) => {}
                None => return Err(self.problem("a string is not closed")),
            }
        }
    }

    /// To the end of the line, which for Cedar is a line feed or a carriage return.
    fn comment(&mut self) {
        while !matches!(self.next(), Some(b'\n' | b'\r') | None) {}
    }

    fn word(&mut self, first: u8) -> Vec<u8> {
        let len = self.rest.iter().take_while(|byte| is_word(**byte)).count();
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        [&[first], word].concat()
    }

    /// `&&`, `||`, `==`, `!=`, `<=` and `>=` are one operator each.
    fn second_half(&mut self, first: u8) {
        if matches!(
            (first, self.rest.first()),
            (b'&', Some(b'&')) | (b'|', Some(b'|')) | (b'=' | b'!' | b'<' | b'>', Some(b'='))
        ) {
            self.rest = &self.rest[1..];
        }
    }

    fn open(&mut self) -> Result<(), Overgrown> {
        self.operators.push(0);
        if self.operators.len() > MAX_NESTING + 1 {
            return Err(self.problem("brackets are nested deeper than 16"));
        }
        Ok(())
    }

    fn close(&mut self) {
        if self.operators.len() > 1 {
            self.operators.pop();
        }
    }

    /// After a comma stands another element, not a deeper one.
    fn sibling(&mut self) {
        if let Some(level) = self.operators.last_mut() {
            *level = 0;
        }
    }

    fn operator(&mut self) -> Result<(), Overgrown> {
        if let Some(level) = self.operators.last_mut() {
            *level += 1;
        }
        if self.operators.iter().sum::<usize>() > MAX_OPERATORS {
            return Err(self.problem(
                "an expression has more than 64 operators: use [..].contains(..) or several policies",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
