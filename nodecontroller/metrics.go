package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"net"

	"godwit.dev/godwit/nodecontroller/metrics"
)

// metricsService serves metrics, or nothing.
type metricsService struct {
	metrics  *metrics.Metrics
	listener net.Listener // nil: metrics are not asked for
}

// openMetrics listens where the configuration says, and observes from then on.
func (d *Daemon) openMetrics() (metricsService, error) {
	if d.config.MetricsListen == "" {
		return metricsService{}, nil
	}
	l, err := net.Listen("tcp", d.config.MetricsListen)
	if err != nil {
		return metricsService{}, fmt.Errorf("metrics: %w", err)
	}
	m := metrics.New(d.config.NodeName, Version, reasonNames(), d.metricsState)
	d.Observe(m)
	return metricsService{m, l}, nil
}

func (s metricsService) serve(ctx context.Context) error {
	if s.listener == nil {
		return nil
	}
	if err := s.metrics.Serve(ctx, s.listener); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// metricsState is what is under way now.
func (d *Daemon) metricsState() metrics.State {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := metrics.State{Stores: len(d.incoming), StoreReserved: d.reserved(), StoreLimit: uint64(d.config.StoreLimit)}
	for _, m := range d.outgoing {
		s.Migrations = append(s.Migrations, m.status())
	}
	for _, r := range d.recovering {
		s.Migrations = append(s.Migrations, recoveringStatus(r, d.config.NodeName))
	}
	for _, m := range d.incoming {
		s.Migrations = append(s.Migrations, m.status())
	}
	return s
}

var _ Observer = (*metrics.Metrics)(nil)
