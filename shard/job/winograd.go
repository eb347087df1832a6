package job

import (
	"fmt"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Winograd says whether convolutions may be computed by Winograd's algorithm where that is faster. On is the empty
// value: the canonical bytes of a job that does not mind are those they were before there was a choice.
type Winograd string

// The two choices, as they are kept.
const (
	WinogradOn  Winograd = ""
	WinogradOff Winograd = "off"
)

// UnmarshalYAML takes off and on, which one version of YAML reads as words and another as false and true, and those.
func (w *Winograd) UnmarshalYAML(n *yaml.Node) error {
	word := ""
	if n.Kind == yaml.ScalarNode {
		word = strings.ToLower(n.Value)
	}
	switch word {
	case "on", "true":
		*w = WinogradOn
	case "off", "false":
		*w = WinogradOff
	case "":
		return fmt.Errorf("winograd: neither on nor off; use one of them")
	default:
		return fmt.Errorf("winograd: %q is neither on nor off; use one of them", n.Value)
	}
	return nil
}

// Direct says whether every convolution is computed by the definition. It is part of what the numerics id names.
func (j *Job) Direct() bool { return j.Winograd == WinogradOff }
