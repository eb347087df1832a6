package shard

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed networks/*.yaml
var networks embed.FS

// EmbeddedNames lists the networks that come with the program.
func EmbeddedNames() []string {
	entries, err := networks.ReadDir("networks")
	if err != nil {
		panic(err) // the directory is compiled in
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	slices.Sort(names)
	return names
}

// EmbeddedText returns an embedded network's file.
func EmbeddedText(name string) (string, error) {
	if !slices.Contains(EmbeddedNames(), name) {
		return "", fmt.Errorf("no network %q is built in; there are %s: %w", name,
			strings.Join(EmbeddedNames(), ", "), ErrNetwork)
	}
	b, err := networks.ReadFile("networks/" + name + ".yaml")
	return string(b), err
}

// Embedded returns a network that comes with the program.
func Embedded(name string) (*Network, error) {
	text, err := EmbeddedText(name)
	if err != nil {
		return nil, err
	}
	return Parse(name+".yaml", []byte(text))
}
