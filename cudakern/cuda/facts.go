package cuda

// Driver is what is known of the machine's driver and GPUs.
type Driver struct {
	Version string // of CUDA that it speaks: "12.4"
	Release string // of the driver itself: "550.163.01"
	Error   string // why no GPU can be driven
	Health  string // why there is nothing to say of health
	GPUs    []GPU
}

// GPU is what the driver and its management library say of one GPU. Numbers of health are nil where nobody says.
type GPU struct {
	Name       string `json:"name"` // for --device: "cuda:0"
	UUID       string `json:"uuid"` // another name for --device
	Model      string `json:"model"`
	Bus        string `json:"pci,omitempty"`
	Capability string `json:"compute_capability"` // "8.0"
	Processors int    `json:"multiprocessors"`
	Image      string `json:"kernels"` // which of our images suits it: A, B
	Numerics   string `json:"numerics"`
	Memory     int64  `json:"memory_bytes"`
	CUDA       string `json:"cuda"`             // that the driver speaks
	Driver     string `json:"driver,omitempty"` // its release
	Links      []Link `json:"links,omitempty"`  // to the others

	Free        *int64   `json:"free_bytes,omitempty"`
	Temperature *int     `json:"celsius,omitempty"`
	Watts       *float64 `json:"watts,omitempty"`
	WattsLimit  *float64 `json:"watts_limit,omitempty"`
	Busy        *int     `json:"busy_percent,omitempty"`
	ECC         *bool    `json:"ecc,omitempty"`
	ECCErrors   *uint64  `json:"ecc_uncorrected,omitempty"` // since the driver was loaded
	Slowed      []string `json:"slowed_by,omitempty"`       // why its clock is below what it could be
	Warnings    []string `json:"warnings,omitempty"`        // what an owner should look at before training on it

	// Peak rates from clocks and widths, for shares of the roofline; 0 if not known.
	Flops     float64 `json:"peak_fp32_flops,omitempty"`     // multiply-adds count two
	Bandwidth float64 `json:"peak_bytes_a_second,omitempty"` // of its memory
}

// Link is how a GPU reaches another.
type Link struct {
	To   string `json:"to"`
	Peer bool   `json:"peer"`           // each can read and write the other's memory
	Path string `json:"path,omitempty"` // "NVLink x4", "one PCIe switch", "through the processor"
}
