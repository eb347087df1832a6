package main

// examples are what --help shows of every command, by its path.
var examples = map[string]string{
	"run":        "run --coordinator 10.0.0.1:7400,10.0.0.2:7400 --data w1/",
	"doctor":     "doctor --data w1/ --coordinator 10.0.0.1:7400",
	"devices":    "devices --json",
	"verify":     "verify --device cuda:0",
	"bench":      "bench --network alexnet --columns 2",
	"predict":    "predict --checkpoint fashion-6558.safetensors boot.png",
	"evaluate":   "evaluate --checkpoint fashion-6558.safetensors --data test.pack",
	"examples":   "examples --checkpoint fashion-6558.safetensors --out examples.json",
	"data pack":  "data pack --from photos/ --size 256 --out photos.pack",
	"data info":  "data info photos.pack",
	"data show":  "data show photos.pack --out sheet.png",
	"completion": "completion bash > ~/.local/share/bash-completion/completions/worker",
}
