package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"

	"colonnade/worker/data"
)

// dataCmd groups the commands about datasets.
type dataCmd struct {
	Pack dataPackCmd `cmd:"" help:"Make a pack, the one file a job reads images from."`
	Info dataInfoCmd `cmd:"" help:"Verify a pack and say what is in it."`
}

// dataPackCmd is `worker data pack`.
type dataPackCmd struct {
	From     string   `required:"" placeholder:"SRC" help:"An IDX file or a directory of them, a directory of images with one directory per class, or a tar of such (plain, gzip or zstd)."`
	Out      string   `required:"" placeholder:"FILE" help:"Pack to write, NAME.pack by custom."`
	Split    string   `placeholder:"NAME" help:"Which part of the source, train or test, where it has both."`
	Classes  []string `sep:"," placeholder:"NAME,..." help:"Names of the classes, by label. Default: the directories' names, sorted; numbers for IDX."`
	Channels int      `help:"1 for grey, 3 for colour. Default: what the source has."`
	MaxBad   int      `placeholder:"N" help:"Images that may be unreadable before giving up; each is named."`
	JSON     bool     `help:"Print as JSON."`
}

// Run packs a dataset.
func (c *dataPackCmd) Run(ctx context.Context, con console) error {
	s, err := data.MakePack(ctx, data.PackOptions{From: c.From, Out: c.Out, Split: c.Split, Classes: c.Classes,
		Channels: c.Channels, MaxBad: c.MaxBad})
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
	fmt.Fprintf(w, "\nCLASS\tIMAGES\tNAME\n")
	for i, c := range f.Classes {
		fmt.Fprintf(w, "%d\t%d\t%s\n", i, c.Images, c.Name)
	}
	return w.Flush()
}
