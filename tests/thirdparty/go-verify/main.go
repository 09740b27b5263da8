// go-verify checks a published audit log with the Go checksum database's own libraries: signature, tiles, root,
// every entry, inclusion proofs, and that an earlier tree is a prefix of this one.
//
// It shares no code with the log's writer. Usage: go-verify <log directory> <verifier key>
package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The most inclusion proofs that are made.
const maxProofs = 256

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: go-verify <log directory> <verifier key>")
		os.Exit(2)
	}
	summary, err := verify(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "go-verify:", err)
		os.Exit(1)
	}
	fmt.Println(summary)
}

func verify(dir, vkey string) (string, error) {
	tree, err := openCheckpoint(dir, vkey)
	if err != nil {
		return "", err
	}
	hashes := tlog.TileHashReader(tree, tiles(dir))
	for first := int64(0); first < tree.N; first += 256 {
		if err := checkBundle(dir, hashes, first, min(256, tree.N-first)); err != nil {
			return "", err
		}
	}
	proofs := int64(0)
	step := max(1, tree.N/maxProofs)
	for i := int64(0); i < tree.N; i += step {
		leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, i)})
		if err != nil {
			return "", fmt.Errorf("entry %d: %w", i, err)
		}
		proof, err := tlog.ProveRecord(tree.N, i, hashes)
		if err != nil {
			return "", fmt.Errorf("entry %d: %w", i, err)
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, i, leaf[0]); err != nil {
			return "", fmt.Errorf("entry %d: %w", i, err)
		}
		proofs++
	}
	if old := tree.N / 2; old > 0 {
		oldHash, err := tlog.TreeHash(old, hashes)
		if err != nil {
			return "", err
		}
		proof, err := tlog.ProveTree(tree.N, old, hashes)
		if err != nil {
			return "", err
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, old, oldHash); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("ok: %d entries, %d inclusion proofs, root %s", tree.N, proofs, tree.Hash), nil
}

// openCheckpoint returns the tree of the signed checkpoint.
func openCheckpoint(dir, vkey string) (tlog.Tree, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tlog.Tree{}, err
	}
	bytes, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(bytes, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("not a checkpoint of %s", verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, fmt.Errorf("bad root in checkpoint")
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}, nil
}

// checkBundle compares the entries of one bundle with leaf hashes that were authenticated against the root.
func checkBundle(dir string, hashes tlog.HashReader, first, count int64) error {
	path := path(tlog.Tile{H: 8, L: -1, N: first / 256, W: int(count)})
	bytes, err := os.ReadFile(filepath.Join(dir, path))
	if err != nil {
		return err
	}
	indexes := make([]int64, count)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(0, first+int64(i))
	}
	leaves, err := hashes.ReadHashes(indexes)
	if err != nil {
		return err
	}
	for i, leaf := range leaves {
		if len(bytes) < 2 || len(bytes)-2 < int(binary.BigEndian.Uint16(bytes)) {
			return fmt.Errorf("entry %d: bundle ends early", first+int64(i))
		}
		length := int(binary.BigEndian.Uint16(bytes))
		if tlog.RecordHash(bytes[2:2+length]) != leaf {
			return fmt.Errorf("entry %d: not the one in the tree", first+int64(i))
		}
		bytes = bytes[2+length:]
	}
	if len(bytes) > 0 {
		return fmt.Errorf("bundle of entry %d has extra bytes", first)
	}
	return nil
}

// path is the C2SP tlog-tiles name of a tile; Go's own names have the height in them and call entries data.
func path(tile tlog.Tile) string {
	name := strings.TrimPrefix(tile.Path(), "tile/8/")
	if rest, ok := strings.CutPrefix(name, "data/"); ok {
		name = "entries/" + rest
	}
	return "tile/" + name
}

// tiles reads hash tiles from a directory.
type tiles string

func (tiles) Height() int { return 8 }

func (dir tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, len(wanted))
	for i, tile := range wanted {
		bytes, err := os.ReadFile(filepath.Join(string(dir), path(tile)))
		if err != nil {
			return nil, err
		}
		found[i] = bytes
	}
	return found, nil
}

func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}
