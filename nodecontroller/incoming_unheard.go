package nodecontroller

import (
	"context"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

// A destination that has voted and then lost what it held, to a shim that died, does not know what its source decided. If that has
// committed, the pod is lost, and the source hears so when it tells its decision. A destination that has forgotten the migration would look to
// it like one that has carried it through. So the record stays until the source knows nothing of the migration any more.

// calledOff notes that nobody has committed, by the source's word or an operator's.
func (m *incoming) calledOff() {
	m.mu.Lock()
	m.called = true
	m.mu.Unlock()
}

// sourceHeard says whether the source needs no more of this node to know what became of the pod, once it is dropped here.
func (m *incoming) sourceHeard() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.called || !m.record.Voted
}

// awaitHeard waits for the same. A source that cannot be asked leaves the migration in doubt, which an operator ends. The error is ctx's.
func (m *incoming) awaitHeard(ctx context.Context) error {
	detail := m.status().Detail
	for !m.sourceHeard() {
		r := m.current()
		source := m.d.askOutcome(ctx, r.Peer, m.d.addressOf(r), m.id)
		if source == peerv1.Outcome_OUTCOME_ABORTED {
			return nil
		}
		m.mu.Lock()
		m.doubt = source == peerv1.Outcome_OUTCOME_UNSPECIFIED
		m.detail = detail + "; node " + r.Peer + " has not heard yet"
		m.mu.Unlock()
		select {
		case <-m.verdict:
			m.calledOff()
		default:
			if err := pause(ctx, askAgain); err != nil {
				return err
			}
		}
	}
	return nil
}
