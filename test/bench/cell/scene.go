package cell

import (
	"context"
	"errors"
	"fmt"
	"time"

	"godwit.dev/godwit/test/bench/matrix"
	"godwit.dev/godwit/test/lab"
)

// prepare has something on the nodes that by can move: what is there already, or else a program that is started and filled.
func (s *scene) prepare(ctx context.Context, by matrix.By) error {
	if s.subject != nil && byHand(s.subject.by()) == byHand(by) {
		return nil
	}
	if err := s.end(ctx); err != nil {
		return err
	}
	p, err := programOf(ctx, s.workload, s.Memory)
	if err != nil {
		return err
	}
	if s.lab, err = lab.Up(ctx, lab.Options{Dir: s.LabDir, Shape: s.link.Shape}); err != nil {
		return err
	}
	if err := count(ctx, s.lab); err != nil {
		return err
	}
	if s.subject, err = start(ctx, s.lab, p, by); err != nil {
		return err
	}
	s.client = p.client(s.subject.address())
	if err := s.client.fill(ctx); err != nil {
		return fmt.Errorf("fill %s: %w", p.name, err)
	}
	s.client.GiveUpAfter(patience)
	return nil
}

// byHand says whether it is an operator who moves: what one moves, another can.
func byHand(by matrix.By) bool { return by != matrix.Godwit }

// end removes what is moved; the nodes stay.
func (s *scene) end(ctx context.Context) error {
	if s.lab == nil {
		return nil
	}
	var err error
	if s.subject != nil {
		err = s.subject.remove(ctx)
	}
	err = errors.Join(err, s.lab.Close())
	s.lab, s.subject, s.client = nil, nil, nil
	return err
}

// finish removes what is moved, if need be with the nodes.
func (s *scene) finish(ctx context.Context) error {
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), downLimit)
	defer cancel()
	if s.end(clean) == nil {
		return nil
	}
	return s.discard(ctx)
}

// discard takes the nodes down with all that is on them: nobody knows what a failed move has left.
func (s *scene) discard(ctx context.Context) error {
	if s.lab != nil {
		_ = s.lab.Close()
	}
	s.lab, s.subject, s.client = nil, nil, nil
	return down(ctx, s.LabDir)
}

// downLimit is how long it may take to take the nodes down, also after Ctrl-C.
const downLimit = 2 * time.Minute

func down(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downLimit)
	defer cancel()
	return lab.Down(ctx, dir)
}
