package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"colonnade/coordinator/plainjson"
)

// What --json prints is a contract: see plainjson.

// printProto prints a message as indented JSON.
func printProto(out io.Writer, m proto.Message) error {
	var b bytes.Buffer
	if err := json.Indent(&b, plainjson.Marshal(m), "", "  "); err != nil {
		return fmt.Errorf("print as JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := out.Write(b.Bytes())
	return err
}

// printLine prints a message as one line of JSON.
func printLine(out io.Writer, m proto.Message) error {
	_, err := out.Write(append(plainjson.Marshal(m), '\n'))
	return err
}

// printJSON prints a value as indented JSON.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
