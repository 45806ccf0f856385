package criu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"github.com/checkpoint-restore/go-criu/v7/stats"
	"google.golang.org/protobuf/proto"
)

// predumpLog is the log of a pre-dump, in its images directory.
const predumpLog = "pre-dump.log"

// predumpLetGo is how long a pre-dump that is called off may take to set the
// processes free.
const predumpLetGo = 5 * time.Second

// PreDumpConfig is one pre-dump of one container: CRIU stops its processes for a
// moment, notes which pages were written since the pre-dump before, lets them go
// on, and sends those pages to a page server.
type PreDumpConfig struct {
	// PID is the container's first process.
	PID int
	// Images is a directory for the few images that are not pages: CRIU wants
	// them of the pre-dump before to see which processes are new.
	Images string
	// Parent is the Images of the pre-dump before; empty: everything is sent.
	Parent string
	// Pages is the client's end of the page server's connection.
	Pages *os.File
	// HangUp cuts the page server's connection, which makes CRIU fail.
	HangUp func()
	// Run runs a command to its end and kills it when ctx ends.
	Run func(ctx context.Context, cmd *exec.Cmd) error
}

// RunPreDump does a pre-dump and returns when CRIU has ended. When ctx ends, CRIU
// is made to fail, and the processes go on.
//
// The pages are read from the running processes (CRIU's pre-dump mode "read"):
// the other way, "splice", holds them in pipes that it fills while the processes
// stand still.
func RunPreDump(ctx context.Context, c PreDumpConfig) (PreDumpStats, error) {
	dir, err := os.Open(c.Images)
	if err != nil {
		return PreDumpStats{}, fmt.Errorf("images of a pre-dump: %w", err)
	}
	defer dir.Close()
	opts := &rpc.CriuOpts{
		ImagesDirFd: proto.Int32(int32(dir.Fd())),
		Pid:         proto.Int32(int32(c.PID)),
		TrackMem:    proto.Bool(true),
		PreDumpMode: rpc.CriuPreDumpMode_VM_READ.Enum(),
		Ps:          &rpc.CriuPageServerInfo{Fd: proto.Int32(pageSocket)},
		LogFile:     proto.String(predumpLog),
		LogLevel:    proto.Int32(2),

		ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(),
	}
	if c.Parent != "" {
		parent, err := filepath.Rel(c.Images, c.Parent)
		if err != nil {
			return PreDumpStats{}, fmt.Errorf("images of the pre-dump before: %w", err)
		}
		opts.ParentImg = proto.String(parent)
	}
	s := service{run: c.Run, files: []*os.File{c.Pages}, letGo: predumpLetGo, hangUp: c.HangUp}
	resp, err := s.ask(ctx, &rpc.CriuReq{Type: rpc.CriuReqType_PRE_DUMP.Enum(), Opts: opts})
	if err == nil {
		err = refused(resp)
	}
	if err != nil {
		return PreDumpStats{}, withLog(fmt.Errorf("pre-dump of process %d: %w", c.PID, err), c.Images, predumpLog)
	}
	return readPreDumpStats(filepath.Join(c.Images, stats.StatsDump))
}

// PreDumpStats is what CRIU says of a pre-dump.
type PreDumpStats struct {
	// Freezing is how long stopping the processes took, and Frozen how long they
	// stood still then.
	Freezing, Frozen time.Duration
}

// readPreDumpStats reads CRIU's image of statistics. go-criu's reader trusts the
// length that stands in the file.
func readPreDumpStats(path string) (PreDumpStats, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return PreDumpStats{}, fmt.Errorf("statistics of a pre-dump: %w", err)
	}
	if len(b) < stats.PayloadOffset {
		return PreDumpStats{}, fmt.Errorf("statistics of a pre-dump: %d bytes are too few", len(b))
	}
	said := new(stats.StatsEntry)
	if err := proto.Unmarshal(b[stats.PayloadOffset:], said); err != nil {
		return PreDumpStats{}, fmt.Errorf("statistics of a pre-dump: %w", err)
	}
	return PreDumpStats{
		Freezing: time.Duration(said.GetDump().GetFreezingTime()) * time.Microsecond,
		Frozen:   time.Duration(said.GetDump().GetFrozenTime()) * time.Microsecond,
	}, nil
}
