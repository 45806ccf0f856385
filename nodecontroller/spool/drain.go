package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// lastPart is how much may be left of a channel when no more is taken in until it is
// handed over, bytes.
const lastPart = maxBatch

// Drain hands over what came for a channel, in order, and what comes meanwhile; the
// records are valid during the call only. When it returns nil, all of it has been and
// the disk has its room back: Append returns ErrDrained for that channel from then on.
func (s *Spool) Drain(number uint32, apply func(records []byte) error) error {
	c := s.channels[number]
	if c == nil {
		return fmt.Errorf("channel %d: %w", number, ErrChannel)
	}
	file := path(s.dir, number)
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("spool of files: %w", err)
	}
	defer f.Close()
	for done := int64(0); ; {
		c.mu.Lock()
		to := c.size
		if to-done <= lastPart {
			defer c.mu.Unlock()
			if err := readAll(io.NewSectionReader(f, done, to-done), file, apply); err != nil {
				return err
			}
			return s.give(c, file)
		}
		c.mu.Unlock()
		if err := readAll(io.NewSectionReader(f, done, to-done), file, apply); err != nil {
			return err
		}
		done = to
	}
}

// give removes the file of a channel that has been handed over; its mu is held.
func (s *Spool) give(c *channel, file string) error {
	var err error
	if c.file != nil {
		err = c.file.Close()
		c.file = nil
	}
	if err := errors.Join(err, os.Remove(file)); err != nil {
		return fmt.Errorf("spool of files: %w", err)
	}
	c.drained = true
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written -= c.written
	return nil
}
