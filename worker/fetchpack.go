package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
	"colonnade/shard/pack"
	"colonnade/worker/depot"
)

// packsOf opens a job's packs. One that does not lie on this machine is fetched from a peer that has it; tell is told
// how far that is, in words that begin with the phase's name.
func (h *host) packsOf(ctx context.Context, j *job.Job, peers []*clusterpb.Peer, tell func(string)) (*packs, error) {
	p, err := openPacks(j, func(want *job.Pack) (string, error) { return h.obtain(ctx, want, peers, tell) })
	if err == nil || ctx.Err() != nil || errors.Is(err, depot.ErrLost) {
		return p, err // what was lost on the way may come with the next generation
	}
	return p, permanentError{err}
}

// obtain says where a pack lies on this machine, after fetching it if it must.
func (h *host) obtain(ctx context.Context, want *job.Pack, peers []*clusterpb.Peer, tell func(string)) (string, error) {
	path, missing := findPack(want, h.packs)
	if missing == nil || !errors.Is(missing, errNoPack) || len(peers) == 0 {
		return path, missing
	}
	id, err := hex.DecodeString(want.ID)
	if err != nil || len(id) != 32 {
		return "", missing
	}
	var from []depot.Peer
	for _, p := range peers {
		from = append(from, depot.Peer{Worker: p.Name, Address: p.Address})
	}
	h.log.Info("fetching a pack that this machine lacks", "pack", want.ID, "peers", len(from), "to", h.packs)
	last := ""
	path, err = depot.Fetch(ctx, depot.Config{Directory: h.packs, Tell: func(p depot.Progress) {
		now := fmt.Sprintf("%s %.12s from worker %s: %d %%", phaseFetch, want.ID, p.Worker, 100*p.Done/max(p.Total, 1))
		if p.Worker == "" {
			now = fmt.Sprintf("%s %.12s: verify all of it", phaseFetch, want.ID)
		}
		if now != last {
			tell(now)
			last = now
		}
	}}, depot.Want{ID: [32]byte(id), Path: want.Path, Images: want.Images, Channels: want.Channels, Height: want.Height,
		Width: want.Width, Classes: want.Classes}, from)
	switch {
	case errors.Is(err, depot.ErrNobody):
		return "", fmt.Errorf("%w; %w", missing, err)
	case err != nil:
		return "", err
	}
	h.log.Info("fetched a pack", "pack", want.ID, "path", path)
	return path, nil
}

// holds says where this machine has a pack that a peer lacks.
func (h *host) holds(id [32]byte, path string) (string, error) {
	if head, err := pack.ReadFile(path); err == nil && head.ID == id {
		return path, nil
	}
	found, err := packIn(h.packs, hex.EncodeToString(id[:]))
	if err == nil && found == "" {
		err = fs.ErrNotExist
	}
	return found, err
}
