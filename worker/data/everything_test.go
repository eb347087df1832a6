package data

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	img "image"
	"image/color"
	"image/jpeg"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSourcesOfImageNet packs the same images from every layout in which ImageNet is found.
func TestSourcesOfImageNet(t *testing.T) {
	synsets := []string{"n01", "n02", "n03"}
	tree, shards, perClass, inner, flat := files{}, []files{{}, {}}, files{}, files{}, files{}
	var caffe, truth, csv string
	for c, s := range synsets {
		own := files{}
		for i := range 4 {
			name := fmt.Sprintf("%s_%d.JPEG", s, i)
			b := photograph(t, 20+3*i, 30-c, byte(40*c+10*i))
			own[name] = b
			tree[s+"/"+name] = b
			key := fmt.Sprintf("%s/%s_%d", s, s, i)
			shards[i%2][key+".JPEG"], shards[i%2][key+".cls"] = b, []byte(s+"\n")
		}
		perClass[s+".tar"] = own.tar(t, own.names())
		inner[s+".tar"] = perClass[s+".tar"]
	}
	for i, name := range tree.names() {
		at := fmt.Sprintf("val_%03d.JPEG", i)
		flat[at] = tree[name]
		s := strings.Split(name, "/")[0]
		caffe += fmt.Sprintf("%s %d\n", at, slices.Index(synsets, s))
		csv += fmt.Sprintf("%s,%s\n", strings.TrimSuffix(at, ".JPEG"), s)
		truth += fmt.Sprintln(slices.Index([]string{"n03", "n01", "n02"}, s) + 1) // the devkit's own order
	}
	list := stow(t, "synsets.txt", []byte("n01 tench\nn02 goldfish\nn03 shark\n"))
	devkit := stow(t, "devkit.txt", []byte("n03\nn01\nn02\n"))
	web := files{"train-0.tar": shards[0].tar(t, shards[0].names()),
		"train-1.tar.zst": zstandard(t, shards[1].tar(t, shards[1].names()))}
	_, want := mustPack(t, PackOptions{From: tree.folder(t), Size: 16})
	for name, o := range map[string]PackOptions{
		"tar":               {From: stow(t, "x.tar", tree.tar(t, tree.names()))},
		"tar of tars":       {From: stow(t, "ILSVRC2012_img_train.tar", inner.tar(t, inner.names()))},
		"a tar each":        {From: perClass.folder(t)},
		"shards with .cls":  {From: web.folder(t)},
		"labels by number":  {From: flat.folder(t), Labels: stow(t, "val.txt", []byte(caffe)), Synsets: list},
		"labels by name":    {From: flat.folder(t), Labels: stow(t, "val.csv", []byte("ImageId,Label\n"+csv))},
		"the devkit's text": {From: flat.folder(t), Labels: stow(t, "truth.txt", []byte(truth)), Synsets: devkit},
	} {
		o.Size = 16
		if _, s := mustPack(t, o); s.ID != want.ID {
			t.Errorf("%s gives another pack than the tree: %+v", name, s)
		}
	}
	for name, c := range map[string]struct{ text, want string }{
		"short":  {truth[:len(truth)-2], "11 lines for 12 images"},
		"beyond": {"4\n" + truth[2:], "none of the 3 synsets"},
		"other":  {"other.JPEG 1\n", "says nothing of val_000.JPEG"},
		"words":  {strings.Repeat("x\n", 12), "none of the 3 synsets"},
		"twice":  {"val_000.JPEG 1\nval_000.JPEG 2\n", `"val_000.JPEG" is of class "n03" here and of "n02" above`},
		"binary": {"\x00\x01\x02 \xff\xfe\nx\x80\n", "is not FILE CLASS"},
	} {
		o := PackOptions{From: flat.folder(t), Labels: stow(t, "l.txt", []byte(c.text)), Synsets: list, Size: 16}
		if line := refused(t, o); !strings.Contains(line, c.want) || !strings.Contains(line, otherLabels) {
			t.Errorf("%s: %q does not say %q and %q", name, line, c.want, otherLabels)
		}
	}
}

// photograph is a JPEG with something to see in it.
func photograph(t testing.TB, height, width int, shade byte) []byte {
	t.Helper()
	m := img.NewRGBA(img.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			m.Set(x, y, color.RGBA{byte(8 * y), byte(8 * x), shade, 255})
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCIFARBatches(t *testing.T) {
	record := func(labels ...byte) []byte {
		return append(labels, bytes.Repeat([]byte{labels[len(labels)-1] + 1}, cifarBytes)...)
	}
	ten := files{"data_batch_1.bin": slices.Concat(record(1), record(0)), "data_batch_2.bin": record(2),
		"test_batch.bin": record(1), "batches.meta.txt": []byte("cat\ndog\nfox\n\n")}.folder(t)
	path, s := mustPack(t, PackOptions{From: ten, Split: "train"})
	if diff := cmp.Diff([]string{"cat", "dog", "fox"}, s.Classes); diff != "" || s.Images != 3 {
		t.Errorf("%d images, classes (-want +got):\n%s", s.Images, diff)
	}
	p := mustOpen(t, path)
	for i, want := range []int{1, 0, 2} {
		if p.Label(i) != want || p.Image(i)[cifarBytes-1] != byte(want+1) {
			t.Errorf("image %d: label %d, last pixel %d", i, p.Label(i), p.Image(i)[cifarBytes-1])
		}
	}
	hundred := files{"train.bin": record(9, 1), "test.bin": record(9, 0), "fine_label_names.txt": []byte("a\nb\n")}
	if _, s := mustPack(t, PackOptions{From: hundred.folder(t), Split: "test"}); s.Images != 1 || s.Classes[1] != "b" {
		t.Errorf("CIFAR-100: %+v", s)
	}
	cut := files{"test_batch.bin": record(1)[:100]}.folder(t)
	if line := refused(t, PackOptions{From: cut, Split: "test"}); !strings.Contains(line, "truncated") {
		t.Errorf("a cut batch: %s", line)
	}
	refused(t, PackOptions{From: ten})
	refused(t, PackOptions{From: ten, Split: "train", Channels: 1})
}

// TestOrientation turns a photograph in every way that EXIF can say and wants it upright again.
func TestOrientation(t *testing.T) {
	plain := photograph(t, 16, 24, 9)
	want, err := decodeImage(plain, 3)
	if err != nil {
		t.Fatal(err)
	}
	back := map[int]int{1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6} // what undoes each
	for how, undo := range back {
		turned := upright(want, undo)
		if diff := cmp.Diff(want.pixels, upright(turned, how).pixels); diff != "" {
			t.Errorf("orientation %d is not undone by %d", how, undo)
		}
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			if got := orientation(oriented(plain, order, uint16(how))); got != how {
				t.Errorf("orientation %d is read as %d", how, got)
			}
		}
	}
	// Orientation 6: the first row of the stored image is the right side of the scene.
	got, err := decodeImage(oriented(plain, binary.BigEndian, 6), 3)
	if err != nil || got.height != 24 || got.width != 16 {
		t.Fatalf("%dx%d, %v", got.height, got.width, err)
	}
	for x := range 24 {
		if got.pixels[x*16+15] != want.pixels[x] {
			t.Fatalf("pixel %d of the first row is not on the right side", x)
		}
	}
	for cut := range 60 { // nonsense and parts of EXIF turn nothing and break nothing
		orientation(oriented(plain, binary.BigEndian, 6)[:cut])
	}
}

// oriented puts EXIF into a JPEG.
func oriented(plain []byte, order binary.AppendByteOrder, how uint16) []byte {
	tiff := []byte("II*\x00")
	if order == binary.AppendByteOrder(binary.BigEndian) {
		tiff = []byte("MM\x00*")
	}
	tiff = order.AppendUint32(tiff, 8)
	tiff = order.AppendUint16(tiff, 2)
	for _, e := range [][2]uint16{{0x010f, 7}, {0x0112, how}} {
		tiff = order.AppendUint16(tiff, e[0])
		tiff = order.AppendUint16(tiff, 3)
		tiff = order.AppendUint32(tiff, 1)
		tiff = order.AppendUint16(tiff, e[1])
		tiff = append(tiff, 0, 0)
	}
	body := append([]byte("Exif\x00\x00"), tiff...)
	out := []byte{0xff, 0xd8, 0xff, 0xe1}
	out = binary.BigEndian.AppendUint16(out, uint16(len(body)+2))
	return append(append(out, body...), plain[2:]...)
}

// TestResizeIsGolden pins the filter: its weights are those of PIL, computed by hand for 5 pixels to 2 and 2 to 4.
func TestResizeIsGolden(t *testing.T) {
	one := int32(1 << fixed)
	for _, c := range []struct {
		in, out int
		want    []taps
	}{
		{4, 4, []taps{{0, []int32{one, 0}}, {0, []int32{0, one, 0}}, {1, []int32{0, one, 0}}, {2, []int32{0, one}}}},
		{2, 4, []taps{{0, []int32{one}}, {0, []int32{3 * one / 4, one / 4}}, {0, []int32{one / 4, 3 * one / 4}},
			{1, []int32{one}}}},
	} {
		got := weigh(c.in, c.out, 0, c.out)
		for i := range got {
			sum := make([]int32, c.in)
			for j, k := range got[i].k {
				sum[got[i].first+j] += k
			}
			want := make([]int32, c.in)
			for j, k := range c.want[i].k {
				want[c.want[i].first+j] += k
			}
			if diff := cmp.Diff(want, sum); diff != "" {
				t.Errorf("%d to %d, pixel %d (-want +got):\n%s", c.in, c.out, i, diff)
			}
		}
	}
	flat := image{channels: 1, height: 37, width: 91, pixels: bytes.Repeat([]byte{77}, 37*91)}
	for _, size := range []int{8, 36, 37, 64, 200} {
		got, err := square(flat, size)
		if err != nil || len(got.pixels) != size*size || bytes.Count(got.pixels, []byte{77}) != size*size {
			t.Errorf("an even image at %d is not even: %v", size, err)
		}
	}
}

// TestResumedPackIsTheSame stops packing in many places, each time as a kill would, and goes on.
func TestResumedPackIsTheSame(t *testing.T) {
	f := files{}
	for i := range 2000 {
		f[fmt.Sprintf("%d/%04d.png", i%3, i)] = grey(t, 8, 8, byte(i), byte(i>>8), 3, 4, 5)
	}
	f["1/broken.png"] = []byte("no picture")
	from := f.folder(t)
	o := PackOptions{From: from, MaxBad: 1, Shard: 20_000, journalEvery: func() bool { return true }}
	whole, want := mustPack(t, o)
	for _, stops := range [][]int{{1, 2, 1}, {3}, {5, 1}} {
		o.Out = filepath.Join(t.TempDir(), "x.pack")
		for _, n := range stops {
			ctx, cancel := context.WithCancel(t.Context())
			o.Progress = func(p Progress) {
				if n--; n == 0 {
					cancel()
				}
			}
			if _, err := MakePack(ctx, o); !errors.Is(err, context.Canceled) {
				t.Fatalf("%v, want a cancelled run", err)
			}
			// What a kill leaves behind the last note: more pixels than it speaks of.
			last, err := filepath.Glob(o.Out + ".pixels.*.tmp")
			if err != nil || len(last) == 0 {
				t.Fatal("no pixels are left", err)
			}
			h, err := os.OpenFile(slices.Max(last), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.WriteString("more"); err != nil {
				t.Fatal(err)
			}
			h.Close()
		}
		resumed := 0
		o.Progress = func(p Progress) { resumed = p.Resumed }
		_, got := mustPack(t, o)
		if diff := cmp.Diff(want.ID, got.ID); diff != "" || resumed == 0 {
			t.Errorf("stopped after %v lots, %d images kept; identity (-want +got):\n%s", stops, resumed, diff)
		}
		if diff := cmp.Diff(want.Skipped, got.Skipped); diff != "" {
			t.Errorf("skipped (-want +got):\n%s", diff)
		}
		if !bytes.Equal(mustRead(t, whole), mustRead(t, o.Out)) {
			t.Error("the file differs")
		}
	}
}

// TestShards opens a pack of several files, changes one, and packs another over it.
func TestShards(t *testing.T) {
	f := files{}
	for i := range 40 {
		f[fmt.Sprintf("a/%02d.png", i)] = grey(t, 100, 100, byte(i), 1, 2)
	}
	o := PackOptions{From: f.folder(t), Size: 200, Out: filepath.Join(t.TempDir(), "x.pack"), Shard: 1_000_000}
	path, s := mustPack(t, o)
	_, one := mustPack(t, PackOptions{From: o.From, Size: 200})
	if s.ID != one.ID {
		t.Error("the identity depends on how the pack is laid out")
	}
	facts, err := Info(path)
	if err != nil || len(facts.Files) != 2 { // chunks of 26 images, and no file is smaller
		t.Fatalf("%+v, %v", facts.Files, err)
	}
	lazy, err := open(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	eager, single := mustOpen(t, path), mustOpen(t, one.Path)
	for i := range 40 {
		lazy.Ahead(i)
		if err := lazy.Check(i); err != nil || !bytes.Equal(lazy.Image(i), single.Image(i)) ||
			!bytes.Equal(eager.Image(i), single.Image(i)) {
			t.Fatalf("image %d: %v", i, err)
		}
	}
	if err := lazy.Close(); err != nil {
		t.Fatal(err)
	}
	b := mustRead(t, facts.Files[1])
	b[len(b)-1] ^= 1
	write(t, facts.Files[1], b)
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "images 26 to 39") {
		t.Errorf("a flipped bit: %v", err)
	}
	if lazy, err = open(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(lazy.Check(0), lazy.Close()); err != nil {
		t.Error(err)
	}
	if lazy, err = open(path, 0); err != nil {
		t.Fatal(err)
	}
	if lazy.Check(30) == nil {
		t.Error("a flipped bit in a chunk that is first looked at later is not found")
	}
	lazy.Close()
	os.Remove(facts.Files[0])
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "copy all files") {
		t.Errorf("a missing file: %v", err)
	}
	o.Size = 100
	mustPack(t, o)
	if diff := cmp.Diff([]string{"x.pack"}, left(t, filepath.Dir(path))); diff != "" {
		t.Errorf("left of the older pack (-want +got):\n%s", diff)
	}
}

func TestSplitsByName(t *testing.T) {
	f := files{}
	for i := range 200 {
		f[fmt.Sprintf("a/%03d.png", i)] = grey(t, 1, 1, byte(i))
	}
	seen := map[string]int{}
	for _, split := range []string{"train=0-80", "val=80-90", "test=90-100"} {
		path, s := mustPack(t, PackOptions{From: f.folder(t), Split: split})
		if s.Images == 0 || s.Images == 200 {
			t.Errorf("%s has %d images", split, s.Images)
		}
		for _, c := range content(t, path) {
			seen[c]++
		}
	}
	for c, n := range seen {
		if n != 1 {
			t.Errorf("%s is in %d parts", c, n)
		}
	}
	if len(seen) != 200 {
		t.Errorf("%d of 200 images are in a part", len(seen))
	}
	for _, bad := range []string{"val=", "val=5", "val=9-5", "val=0-101", "=0-5", "val=a-b"} {
		refused(t, PackOptions{From: f.folder(t), Split: bad})
	}
}

// TestBadPictures wants one line for each, and nothing left.
func TestBadPictures(t *testing.T) {
	good := photograph(t, 20, 20, 1)
	for name, c := range map[string]struct {
		more files
		want string
	}{
		"truncated": {files{"a/2.jpg": good[:len(good)/2]}, "cannot be decoded"},
		"1x1":       {files{"a/2.png": grey(t, 1, 1, 1)}, "too small"},
		"empty":     {files{"a/2.jpg": nil}, "cannot be decoded"},
		"wide":      {files{"a/2.png": huge(t, 20_000, 20_000)}, "20000x20000"},
		"line":      {files{"a/2.png": grey(t, 1, 20_000)}, "too small"},
	} {
		c.more["a/1.jpg"] = good
		dir := t.TempDir()
		line := refused(t, PackOptions{From: c.more.folder(t), Size: 16, Out: filepath.Join(dir, "x")})
		if !strings.Contains(line, "a/2.") || !strings.Contains(line, c.want) || len(left(t, dir)) > 0 {
			t.Errorf("%s: %q, left %v", name, line, left(t, dir))
		}
		path, s := mustPack(t, PackOptions{From: c.more.folder(t), Size: 16, MaxBad: 1})
		if len(s.Skipped) != 1 || !strings.Contains(s.Skipped[0].Reason, c.want) || mustOpen(t, path).Images != 1 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	empty := files{"a/1.jpg": good}.folder(t)
	if err := os.Mkdir(filepath.Join(empty, "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if line := refused(t, PackOptions{From: empty, Size: 16}); !strings.Contains(line, "directory b is empty") {
		t.Errorf("an empty class: %s", line)
	}
	broken := files{"a/1.jpg": good, "b/1.jpg": []byte("x")}.folder(t)
	line := refused(t, PackOptions{From: broken, Size: 16, MaxBad: 1})
	if !strings.Contains(line, "class b has no image") {
		t.Errorf("a class of broken images: %s", line)
	}
}

// huge is a PNG's header that claims a size.
func huge(t testing.TB, height, width uint32) []byte {
	t.Helper()
	b := grey(t, 1, 1, 1)
	binary.BigEndian.PutUint32(b[16:], width)
	binary.BigEndian.PutUint32(b[20:], height)
	binary.BigEndian.PutUint32(b[29:], crc32.ChecksumIEEE(b[12:29]))
	return b
}
