package shim

import (
	"fmt"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// runcOptions turns the options of a runtime that containerd's CRI plugin does
// not know by name into runc's. For such runtimes the plugin passes the table
// `options` of its configuration as text (containerd:
// internal/cri/config/config.go, GenerateRuntimeOptions); the keys are those
// of runc's own options.
func runcOptions(given *anypb.Any) (*anypb.Any, error) {
	if len(given.GetValue()) == 0 || !typeurl.Is(given, (*runtimeoptions.Options)(nil)) {
		return given, nil
	}
	var generic runtimeoptions.Options
	if err := typeurl.UnmarshalTo(given, &generic); err != nil {
		return nil, fmt.Errorf("decode runtime options: %w", err)
	}
	var runc options.Options
	if err := toml.Unmarshal(generic.GetConfigBody(), &runc); err != nil {
		return nil, fmt.Errorf("runtime options of handler godwit in containerd's configuration: %w", err)
	}
	any, err := typeurl.MarshalAnyToProto(&runc)
	if err != nil {
		return nil, fmt.Errorf("encode runc options: %w", err)
	}
	return any, nil
}
