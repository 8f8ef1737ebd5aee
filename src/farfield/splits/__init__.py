"""What is seen and what lies beyond: splitters that scikit-learn takes as ``cv``, and the regions behind them.

``split`` yields (train, beyond); ``regions`` also gives the rows held out inside, the matched reference and every row's distance.
"""

from farfield.splits.base import RegionIndices, RegionSplitter
from farfield.splits.clouds import ClusterSplit, DistanceSplit, EnvironmentSplit, HullSplit, InterventionSplit, NeighborResample
from farfield.splits.condition import ConditionSplit
from farfield.splits.inner import LeaveRegionOut
from farfield.splits.ranges import HorizonSplit, LengthSplit, RangeSplit, TargetRangeSplit

__all__ = [
    "ClusterSplit",
    "ConditionSplit",
    "DistanceSplit",
    "EnvironmentSplit",
    "HorizonSplit",
    "HullSplit",
    "InterventionSplit",
    "LeaveRegionOut",
    "LengthSplit",
    "NeighborResample",
    "RangeSplit",
    "RegionIndices",
    "RegionSplitter",
    "TargetRangeSplit",
]
