package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"colonnade/shard/pack"
	"colonnade/worker/data"
)

// dataCmd groups the commands about datasets.
type dataCmd struct {
	Pack dataPackCmd `cmd:"" help:"Make a pack, the one file a job reads images from."`
	Info dataInfoCmd `cmd:"" help:"Verify a pack and say what is in it."`
	Show dataShowCmd `cmd:"" help:"Draw a contact sheet of a pack, or of what a job's network sees of it."`
}

// dataPackCmd is `worker data pack`.
type dataPackCmd struct {
	From      string   `required:"" placeholder:"SRC" help:"A directory of images with one directory per class; a tar of such, or of tars (plain, gzip or zstd); a directory of such archives; a flat directory with --labels; IDX files; CIFAR's binary batches."`
	Out       string   `required:"" placeholder:"FILE" help:"Pack to write, NAME.pack by custom."`
	Split     string   `placeholder:"NAME" help:"Which part of the source: train, val or test, where it has such; NAME=FROM-TO, percentages, of a source without parts, e.g. val=90-100."`
	Size      int      `placeholder:"N" help:"Scale images so that their shorter side has N pixels and keep the central square. Default: as they are, if all have one size."`
	Labels    string   `placeholder:"FILE" help:"Classes of images that lie in no class directory: lines FILE CLASS, or a number for each file in the order of names (ILSVRC2012_validation_ground_truth.txt)."`
	Synsets   string   `placeholder:"FILE" help:"Names of the numbers in --labels, one a line; or the development kit's meta.mat."`
	Classes   []string `sep:"," placeholder:"NAME,..." help:"Names of the classes, by label. Default: the source's own, sorted."`
	ClassesOf string   `placeholder:"PACK" help:"Take the names of the classes from another pack, e.g. for the test set."`
	Channels  int      `help:"1 for grey, 3 for colour. Default: what the source has."`
	MaxBad    int      `placeholder:"N" help:"Images that may be unreadable before giving up; each is named."`
	Shard     int64    `placeholder:"MIB" help:"Size of the files that the pixels of a large pack lie in. Default: 4096."`
	JSON      bool     `help:"Print as JSON."`
}

// Run packs a dataset.
func (c *dataPackCmd) Run(ctx context.Context, con console) error {
	if c.ClassesOf != "" {
		h, err := pack.ReadFile(c.ClassesOf)
		if err != nil {
			return fmt.Errorf("--classes-of: %w", err)
		}
		c.Classes = h.Classes
	}
	p := &packProgress{out: con.err, now: time.Now}
	s, err := data.MakePack(ctx, data.PackOptions{From: c.From, Out: c.Out, Split: c.Split, Classes: c.Classes,
		Labels: c.Labels, Synsets: c.Synsets, Channels: c.Channels, Size: c.Size, MaxBad: c.MaxBad, Shard: c.Shard << 20,
		Progress: p.show})
	p.end()
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, s)
	}
	for _, k := range s.Skipped {
		fmt.Fprintf(con.err, "left out %s: %s\n", k.Name, k.Reason)
	}
	fmt.Fprintf(con.out, "%s: %d images, %d classes, identity %s\n", c.Out, s.Images, len(s.Classes), s.ID)
	return nil
}

// dataInfoCmd is `worker data info`.
type dataInfoCmd struct {
	File string `arg:"" name:"FILE" help:"Pack."`
	JSON bool   `help:"Print as JSON."`
}

// Run verifies a pack and prints what is in it.
func (c *dataInfoCmd) Run(con console) error {
	f, err := data.Info(c.File)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; make one with: worker data pack --from SRC --out FILE", err)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, f)
	}
	return printFacts(con.out, f)
}

func printFacts(out io.Writer, f data.Facts) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "pack\t%s\nidentity\t%s\nimages\t%d of %dx%dx%d (channels x height x width)\n", f.Path, f.ID, f.Images,
		f.Channels, f.Height, f.Width)
	var mean []string
	for _, m := range f.Mean {
		mean = append(mean, fmt.Sprintf("%.2f", m))
	}
	fmt.Fprintf(w, "mean\t%s of 255\n", strings.Join(mean, ", "))
	if f.Colour != nil {
		for i, d := range f.Colour.Deviations {
			v := f.Colour.Components[i]
			fmt.Fprintf(w, "component %d\tdeviation %.3f along (%.5f, %.5f, %.5f)\n", i+1, d, v[0], v[1], v[2])
		}
	}
	if f.Made != "" {
		fmt.Fprintf(w, "decoded by\t%s\n", f.Made)
	}
	fmt.Fprintf(w, "bytes\t%d\n", f.Bytes)
	for i, name := range f.Files {
		fmt.Fprintf(w, "pixels %d\t%s\n", i, name)
	}
	fmt.Fprintf(w, "\nCLASS\tIMAGES\tNAME\n")
	for i, c := range f.Classes {
		fmt.Fprintf(w, "%d\t%d\t%s\n", i, c.Images, c.Name)
	}
	return w.Flush()
}
