"""A virtual incubator: embryos with a known life, drawn in seven focal planes, so that all else can be tried on them.

It knows how an embryo's days tend to go and roughly how a plane image looks. It refuses to know who reads
its frames: nothing here imports a model, a state or a broker. What it draws is an exercise, never evidence about
accuracy on real embryos.
"""

from monitor.simulator.draw import VirtualEmbryo
from monitor.simulator.faults import Fault
from monitor.simulator.incubator import simulate
from monitor.simulator.life import PHASES, Life
from monitor.simulator.optics import PLANES_UM
from monitor.simulator.samples import Sample, stream

__all__ = ["PHASES", "PLANES_UM", "Fault", "Life", "Sample", "VirtualEmbryo", "simulate", "stream"]
