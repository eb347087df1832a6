package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"go.yaml.in/yaml/v4"

	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
)

// planReply is what a picture of a job's columns needs.
type planReply struct {
	Job      string      `json:"job"`
	Network  string      `json:"network"`
	Columns  int         `json:"columns"`
	Replicas int         `json:"replicas"`
	Layers   []planLayer `json:"layers"`
}

type planLayer struct {
	Name  string      `json:"name"`
	Kind  string      `json:"kind"`
	Out   [][3]int    `json:"out"` // by column: maps, height, width; all zero where the column has no part
	Moves []planMoves `json:"moves"`
}

// planMoves is what crosses from a column to another before a layer.
type planMoves struct {
	From  int `json:"from"`
	To    int `json:"to"`
	Bytes int `json:"bytes"` // of an image, in one direction
	Ways  int `json:"ways"`  // 2: as much comes back as gradient
}

// setting is one value of a job, the keys above it joined by dots.
type setting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// spec reads a job's spec, or answers why it cannot.
func (s *Server) spec(w http.ResponseWriter, r *http.Request) ([]byte, *job.Job) {
	ctx, cancel := asked(r)
	defer cancel()
	j, err := s.cfg.Operator.GetJob(ctx, &clusterpb.GetJobRequest{Name: r.PathValue("job")})
	if err != nil {
		s.fail(w, err)
		return nil, nil
	}
	spec, err := job.Decode(j.Spec)
	if err != nil {
		s.refuse(w, http.StatusNotImplemented, "SPEC", "the job is of a newer version: "+err.Error())
		return nil, nil
	}
	return j.Spec, spec
}

// plan is who computes what of a job's network, and what crosses.
func (s *Server) plan(w http.ResponseWriter, r *http.Request) {
	_, j := s.spec(w, r)
	if j == nil {
		return
	}
	p, err := j.Plan()
	if err != nil {
		s.refuse(w, http.StatusInternalServerError, "PLAN", err.Error())
		return
	}
	out := planReply{Job: j.Name, Network: p.Network.Name, Columns: p.Columns, Replicas: j.Replicas}
	for i := range p.Layers {
		out.Layers = append(out.Layers, layerOf(p, &p.Layers[i]))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // whom it cannot be told does not listen
}

// valueBytes is the size of a value that crosses: all are float32.
const valueBytes = 4

func layerOf(p *shard.Plan, lp *shard.LayerPlan) planLayer {
	out := planLayer{Name: lp.Layer.Name, Kind: string(lp.Layer.Kind), Moves: []planMoves{}}
	for c := range lp.Columns {
		o := lp.Columns[c].Out
		out.Out = append(out.Out, [3]int{o.C, o.H, o.W})
	}
	if lp.Exchange < 0 {
		return out
	}
	e := p.Exchanges[lp.Exchange]
	for _, m := range e.Moves {
		ways := 2
		if e.Logits {
			ways = 1
		}
		out.Moves = append(out.Moves, planMoves{From: m.From, To: m.To, Bytes: valueBytes * m.Shape.C * m.Shape.H * m.Shape.W,
			Ways: ways})
	}
	return out
}

// config is a job's effective configuration: its spec with all defaults, without the network's text.
func (s *Server) config(w http.ResponseWriter, r *http.Request) {
	text, j := s.spec(w, r)
	if j == nil {
		return
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		s.refuse(w, http.StatusInternalServerError, "SPEC", err.Error())
		return
	}
	out := struct {
		Job    string    `json:"job"`
		Config []setting `json:"config"`
	}{Job: j.Name, Config: []setting{}}
	for _, n := range root.Content {
		out.Config = flatten(out.Config, "", n)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // whom it cannot be told does not listen
}

// flatten appends the values below a node in the order they have.
func flatten(out []setting, key string, n *yaml.Node) []setting {
	join := func(part string) string {
		if key == "" {
			return part
		}
		return key + "." + part
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if name := join(n.Content[i].Value); name != "network_text" {
				out = flatten(out, name, n.Content[i+1])
			}
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			out = flatten(out, join(strconv.Itoa(i)), c)
		}
	default:
		out = append(out, setting{key, fmt.Sprint(n.Value)})
	}
	return out
}
